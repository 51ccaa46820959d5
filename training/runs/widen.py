"""Make a trained U-Net wider, or give it another norm, so that a run can start from it.

    python -m training widen --start training/start --widths 8 16 32 48 64 --norm batch --run runs/wider

Every new channel is a copy of an old one, and the weights that read copies are shared out among them: the wider network
computes what the old one did (Net2Net: Chen, Goodfellow and Shlens, ICLR 2016). A little noise makes the copies differ,
so that training can drive them apart. With another norm the values are no longer the same, but the filters are a better
start than random ones. The new folder holds a finished run, trained on the cases that the old one was trained on.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from model.bundle.network import NORMS, BodyLevels, Network
from model.errors import ConfigError, OutputError
from model.files import sha256_of
from model.networks.unet import build
from model.results.writing import check_output
from model.schema import to_plain
from model.whole import recover, whole_folder
from training.judging.leakage import seen_by
from training.settings import Training, changed, read_yaml, settings_from, settings_to
from training.weights import checkpoint

FUSIONS = ("early", "middle")
Channels = list[int]  # of every new channel, the old one that it copies


@dataclass(frozen=True)
class Maps:
    """Which old channels the new ones of every stage copy, finest stage first."""

    encoder: list[Channels]
    skips: list[Channels]  # what the decoder gets of a stage: both encoders' channels in middle fusion
    decoder: list[Channels]


def run(options: argparse.Namespace) -> None:
    """Write the wider network as a finished run. Raises ConfigError, WeightsError and OutputError."""
    if not 0 <= options.noise <= 1:
        raise ConfigError(f"--noise must be from 0 to 1, got {options.noise:g}")
    check_new(options.run)
    result = checkpoint.result_of(options.start)
    source = checkpoint.result_file(options.start)
    checkpoint.check_weights(source, result["sha256"], "the run to widen")
    before = settings_of(options.start)
    after = wider(before.network, options)
    settings = changed(before, {"network": after, "seed": options.seed}, "the wider network")
    state = widened(checkpoint.read_weights(source), before.network, settings.network, options.noise, options.seed)
    seen = seen_by(options.start)
    origin = {"run": str(options.start.resolve()), "sha256": result["sha256"]}
    config = {
        "settings": settings_to(settings),
        "train": [],
        "validate": [],
        "seen": {"cases": sorted(seen.cases), "patients": sorted(seen.patients)},
        "start": origin,
        "widened": {"from": list(before.network.widths), "noise": options.noise},
    }
    write_run(options.run, state, config)
    print(f"'{options.run}': widths {', '.join(map(str, settings.network.widths))}, norm {settings.network.norm}")


def check_new(run: Path) -> None:
    """Raise ConfigError unless the folder is new or empty, OutputError unless one can be made beside it."""
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ConfigError(f"--run '{run}' is there and not empty: name another folder")
    check_output(run.resolve().parent)


def settings_of(start: Path) -> Training:
    """The settings of the run to widen. Raises ConfigError if its config.yaml has none."""
    config = read_yaml(start / checkpoint.CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise ConfigError(f"'{start / checkpoint.CONFIG}' holds no settings of a run; give a run of training train")
    return settings_from(config["settings"])


def wider(before: Network, options: argparse.Namespace) -> dict[str, Any]:
    """What changes of the network's settings; the levels of norm: body go with that norm."""
    norm = options.norm or before.norm
    found = {"widths": options.widths or list(before.widths), "norm": norm}
    return found | ({} if norm == before.norm else {"body": to_plain(BodyLevels())})


def write_run(run: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write weights, config.yaml and run.json as a finished run, all or nothing. Raises OutputError."""
    recover(run)
    try:
        with whole_folder(run) as new:
            checkpoint.write_weights(new / checkpoint.LAST, state)
            checkpoint.write_text(new / checkpoint.CONFIG, yaml.safe_dump(config, sort_keys=False))
            sha256 = sha256_of(new / checkpoint.LAST)
            about = {"result": checkpoint.LAST, "sha256": sha256, "epoch": 0, "kept_epoch": 0}
            about |= {"start": config["start"], "terms": 0, "validation": {}}
            checkpoint.write_json(new / checkpoint.RESULT, about)
    except OSError as error:
        raise OutputError(f"cannot write '{run}': {error.strerror}; check free space and write permission") from None


def widened(
    state: dict[str, Tensor], before: Network, after: Network, noise: float = 0.0, seed: int = 0
) -> dict[str, Tensor]:
    """The tensors of `after` made from those of `before`, both U-Nets of one fusion; float32.

    noise: deviation of what is added to convolutions that changed, as a share of their own. Statistics of batch
    normalisation that `before` does not have are those of a fresh network. Raises ConfigError if `after` is no wider
    network of the same kind.
    """
    check_widths(before, after)
    maps, random = maps_of(before, after), torch.Generator().manual_seed(seed)
    new = {name: tensor.clone() for name, tensor in build(after).state_dict().items()}
    for name, old in state.items():
        if name not in new:
            continue  # statistics of a batch normalisation that the new network does not have
        inside, outside = channels_of(name, maps)
        tensor = old.float().clone() if old.is_floating_point() else old.clone()
        transposed = ".upconv" in name
        if tensor.dim() == 5:
            out_axis, in_axis = (1, 0) if transposed else (0, 1)
            tensor = _taken(_taken(tensor, in_axis, inside, shared=True), out_axis, outside)
            if noise and tensor.shape != old.shape:
                tensor += noise * tensor.std() * torch.randn(tensor.shape, generator=random)
        elif tensor.dim() == 1:
            tensor = _taken(tensor, 0, outside)
        new[name] = tensor
    return new


def check_widths(before: Network, after: Network) -> None:
    """Raise ConfigError unless `after` is `before` with as many stages, none narrower."""
    if before.fusion not in FUSIONS or before.fusion != after.fusion:
        raise ConfigError(f"networks of {' and '.join(FUSIONS)} fusion can be made wider, got {before.fusion}")
    pairs = list(zip(before.widths, after.widths, strict=False))
    if len(before.widths) != len(after.widths) or any(new < old for old, new in pairs):
        raise ConfigError(
            f"--widths must be {len(before.widths)} numbers, none below {', '.join(map(str, before.widths))}, "
            f"got {', '.join(map(str, after.widths))}"
        )


def maps_of(before: Network, after: Network) -> Maps:
    """The channels of every stage: new channel i copies old channel i modulo their number."""
    encoder = [[i % old for i in range(new)] for old, new in zip(before.widths, after.widths, strict=True)]
    if before.fusion == "early":
        return Maps(encoder, encoder, encoder)
    skips = [one + [old + i for i in one] for one, old in zip(encoder, before.widths, strict=True)]
    decoder = [[i % (2 * old) for i in range(2 * new)] for old, new in zip(before.widths, after.widths, strict=True)]
    return Maps(encoder, skips, decoder)


def channels_of(name: str, maps: Maps) -> tuple[Channels | None, Channels | None]:
    """The channels that a layer reads and gives, by the name of one of its tensors; None: as they are."""
    part, layer, *rest = name.split(".")
    stages = len(maps.encoder)
    if part != "decoder":  # encoder.layer1.0.conv.weight
        stage = int(layer.removeprefix("layer")) - 1
        first = maps.encoder[stage - 1] if stage else None
        return (first if rest[0] == "0" else maps.encoder[stage]), maps.encoder[stage]
    if layer == "fc":
        return maps.decoder[0], None
    step = int(layer.removeprefix("upconv").removeprefix("layer"))  # 1 is the deepest
    here = maps.decoder[stages - 1 - step]
    if layer.startswith("upconv"):
        return (maps.skips[-1] if step == 1 else maps.decoder[stages - step]), here
    count = max(here) + 1  # of old channels
    joined = here + [count + i for i in maps.skips[stages - 1 - step]]
    return (joined if rest[0] == "0" else here), here


def _taken(tensor: Tensor, axis: int, channels: Channels | None, shared: bool = False) -> Tensor:
    """The tensor with these channels along an axis; shared: the copies of a channel add up to it."""
    if channels is None:
        return tensor
    index = torch.tensor(channels)
    taken = tensor.index_select(axis, index)
    if shared:
        copies = torch.bincount(index)[index].float()
        taken = taken / copies.view([-1 if one == axis else 1 for one in range(tensor.dim())])
    return taken


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of training widen."""
    parser.epilog = "Cost: seconds; 4 bytes a parameter of the wider network on disk. It trains nothing."
    add = parser.add_argument
    add("--start", type=Path, required=True, metavar="RUN", help="folder of the finished run to make wider")
    add("--widths", type=int, nargs="+", metavar="N", help="channels of every stage, none fewer (default: as they are)")
    add("--norm", choices=NORMS, help="norm of the new network (default: as it is)")
    add(
        "--noise",
        type=float,
        default=0.05,
        help="standard deviation of the noise that makes copies differ, as a share of the "
        "weights' own (default 0.05; with 0 the network computes what the old one did)",
    )
    add("--seed", type=int, default=0, help="seed of the noise (default 0)")
    add("--run", type=Path, required=True, metavar="DIR", help="new folder for the wider network")
