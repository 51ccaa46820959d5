"""What stands in a bundle's manifest.json: its members, their settings, and where the weights come from."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from model.bundle.network import ONLY_PET, PET_AND_CT, Network
from model.bundle.nnunet import Preprocessing
from model.bundle.settings import METHODS, Crop, Intensity, Limits, Part, Window
from model.schema import Number, SettingError, build, check_fields, one_of, text_like, to_plain

FORMAT_VERSION = 1
KINDS = ("volumes", "slices", "mixed")
FOLDS = ("0", "1", "2", "3", "4", "all")  # nnU-Net's names of its folds
SLICES_CHANNELS = ("PET", "CT")  # as the authors of the networks for slices order them

Weight = Annotated[int, Meta(gt=0, lt=10**6)] | Annotated[float, Meta(gt=0, lt=1e6)]
Sha256 = Annotated[str, text_like("[0-9a-f]{64}", "64 hexadecimal digits")]
FileName = Annotated[str, text_like(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors", "a plain name ending in .safetensors")]


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trained network of a bundle: its file, its weight, and the network it was started from.

    network, intensity, window, preprocessing: set only in a bundle of kind mixed, where they differ from the bundle's.
    fold: which of nnU-Net's folds it is, 0 to 4 or all.
    """

    file: FileName
    sha256: Sha256
    weight: Weight = 1.0
    start_sha256: Sha256 | None = None
    network: Network | None = None
    intensity: Intensity | None = None
    window: Window | None = None
    preprocessing: Preprocessing | None = None
    fold: Annotated[str, one_of(*FOLDS)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights come from; free text, "unknown" where it is not known."""

    data: str
    commit: str
    date: str
    scores: dict[str, Any]
    attribution: str

    def __post_init__(self) -> None:
        check_fields(self)


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything inference needs to know of a bundle.

    combine: logits, the mean of all members' logits; probabilities, that of all members' lesion probabilities; parts,
    the mean of the probabilities of each network and its settings, whose members' logits are averaged first.
    """

    format_version: int
    name: str
    kind: Annotated[str, one_of(*KINDS)]
    network: Network
    channels: tuple[str, ...]
    intensity: Intensity
    crop: Crop
    window: Window
    method: Annotated[str, one_of(*METHODS)]
    members: tuple[Member, ...]
    provenance: Provenance
    intended_use: str
    licence: str
    combine: Annotated[str, one_of("logits", "probabilities", "parts")] = "logits"
    limits: Limits = Limits()
    preprocessing: Preprocessing | None = None
    citation: str = ""
    skip_suv: Number | None = None  # windows whose PET holds nothing above it are not run; None: unknown, all are run

    def __post_init__(self) -> None:
        check_fields(self)
        if self.format_version != FORMAT_VERSION:
            raise SettingError(
                f"format_version is {self.format_version}, this version reads {FORMAT_VERSION}; "
                "use the container version the bundle was made for"
            )
        wanted = channels_of(self.network)
        if self.channels != wanted:
            alone = ONLY_PET in (self.channels, wanted) and self.channels in (ONLY_PET, PET_AND_CT)
            hint = f", as network.channels are {list(self.network.channels)}" if alone else ""
            raise SettingError(
                f"channels must be {list(wanted)} for {self.network.kind}{hint}, got {list(self.channels)}"
            )
        if not self.members:
            raise SettingError("members is empty: a bundle needs at least one network")
        files = [member.file for member in self.members]
        if len(set(files)) != len(files):
            raise SettingError(f"members names a file twice: {files}; give it a weight instead")
        self._check_kind()
        if any(self.part(member).network.pet_alone != self.pet_alone for member in self.members):
            raise SettingError("members that see PET alone and members that see PET and CT cannot be in one bundle")
        self._check_skip_suv()

    @property
    def pet_alone(self) -> bool:
        """Whether its networks see no CT."""
        return self.network.pet_alone

    def _check_kind(self) -> None:
        kinds = {self.part(member).network.kind for member in self.members}
        own = any((m.network, m.intensity, m.window, m.preprocessing) != (None,) * 4 for m in self.members)
        if self.kind == "mixed" and self.combine == "logits":
            raise SettingError("a mixed bundle combines probabilities: its networks' logits have no common scale")
        if self.kind == "mixed" and self.method != "eoa":
            raise SettingError("the members of a mixed bundle are different networks: their method is eoa")
        if self.kind != "mixed" and (own or kinds != {self.kind}):
            raise SettingError(
                f"kind is {self.kind}, but the members are of {', '.join(sorted(kinds))}"
                f"{' with settings of their own' if own else ''}; a bundle of several networks has kind mixed"
            )

    def _check_skip_suv(self) -> None:
        if self.skip_suv is None:
            return
        most = self.intensity.suv_top if self.intensity.suv_clip else 1e300
        if self.kind != "volumes" or self.preprocessing or not 0 <= self.skip_suv < most:
            raise SettingError(
                "skip_suv is an SUV from 0 on, below suv_top where SUV are clipped, for kind volumes without "
                f"preprocessing, or null; got {self.skip_suv} for kind {self.kind}"
            )

    def part(self, member: Member) -> Part:
        """The member's network, intensity and window: its own or the bundle's."""
        return Part(
            network=member.network or self.network,
            intensity=member.intensity or self.intensity,
            window=member.window or self.window,
            preprocessing=member.preprocessing if member.network else self.preprocessing,
        )


def channels_of(network: Network) -> tuple[str, ...]:
    """What stands under channels in the manifest of a bundle of such networks."""
    return SLICES_CHANNELS if network.kind == "slices" else network.channels


def manifest_from(data: Any, where: str = "manifest") -> Manifest:
    """Build a Manifest from the parsed manifest.json. Raises ConfigError naming `where` and the key that is wrong."""
    return build(Manifest, data, where)


def manifest_to(manifest: Manifest) -> dict[str, Any]:
    """The dictionary that `manifest_from` reads, ready for json.dumps."""
    plain: dict[str, Any] = to_plain(manifest)
    return plain
