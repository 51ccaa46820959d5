"""Settings of models of nnU-Net v2's kind: the stages of a network, and the way from a study to it and back."""

from typing import Annotated

from msgspec import Meta, Struct

from model.schema import Number, SettingError, check_fields, one_of

Kernel = Annotated[int, Meta(ge=1, le=15)]  # voxels
Stride = Annotated[int, Meta(ge=1, le=8)]  # voxels
Blocks = Annotated[int, Meta(ge=1, le=64)]


class UNetStage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stage of a network of nnU-Net's kind: kernel and stride (x, y, z), blocks of the encoder and of the decoder."""

    kernel: tuple[Kernel, Kernel, Kernel]
    stride: tuple[Stride, Stride, Stride]
    blocks: Blocks
    decoder_blocks: Blocks = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if any(edge % 2 == 0 for edge in self.kernel):
            raise SettingError(f"kernel must have odd edges, got {list(self.kernel)}")


class Normalisation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one channel becomes network units in nnU-Net's ways.

    clip: to [low, high], then less `mean`, over `deviation`; zscore: less its own mean, over its own deviation, with
    `inside` those of the non-zero voxels, holes filled, and the others as they are; zero_to_one: its range to [0, 1];
    none: as it is.
    """

    scheme: Annotated[str, one_of("clip", "zscore", "zero_to_one", "none")]
    inside: bool = False
    low: Number = 0.0
    high: Number = 1.0
    mean: Number = 0.0
    deviation: Number = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.scheme == "clip" and not (self.low < self.high and self.deviation > 0):
            raise SettingError(
                f"low must lie below high and deviation above 0, got {self.low}, {self.high} and {self.deviation}"
            )


class Resampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How voxels are resampled: by splines of an order. apart: whether the coarsest axis is resampled apart, by nearest
    neighbours; null: if its spacing is more than three times the finest.
    """

    order: Annotated[int, Meta(ge=1, le=3)]
    apart: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.order == 2:
            raise SettingError("order must be 1 or 3, got 2")


class Preprocessing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """nnU-Net's way from a study to the network, in place of `crop` and `intensity`.

    The box of voxels that are not zero, a normalisation a channel, then voxels of `spacing_mm` (x, y, z), by `image`;
    logits are brought back by `logits`. ct: None for networks that see PET alone.
    """

    ct: Normalisation | None = None
    pet: Normalisation
    spacing_mm: tuple[Number, Number, Number]
    image: Resampling = Resampling(order=3)
    logits: Resampling = Resampling(order=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if not all(0.1 <= mm <= 50 for mm in self.spacing_mm):
            raise SettingError(f"spacing_mm must be from 0.1 to 50, got {list(self.spacing_mm)}")
