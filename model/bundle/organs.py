"""Which organs a bundle's networks tell apart; without torch, so that it is known before anything slow.

A network of nnU-Net's kind may have a second head, for organs. Its files do not name the classes. The public models
that have one, GLOW-FDG and LesionTracer, have eleven, in the order of `ORGANS` after the background; other heads need
the setting `organ_names`.
"""

from model.bundle.format import Manifest
from model.errors import ConfigError

ORGANS = (
    "spleen",
    "kidneys",
    "liver",
    "urinary bladder",
    "lungs",
    "brain",
    "heart",
    "stomach",
    "prostate",
    "salivary glands",
)


def organ_names(manifest: Manifest) -> tuple[str, ...]:
    """The names of the labels 1, 2, ... of an organ map by this bundle. Members without an organ head do not count.

    Raises ConfigError if no member has the head, if the organs have no names, or if members have other organs.
    """
    networks = [manifest.part(member).network for member in manifest.members]
    heads = [network for network in networks if network.organs]
    if not heads:
        raise ConfigError(
            f"--organs needs networks with an organ head, and '{manifest.name}' has none; leave the option out, or "
            "give another bundle with --weights"
        )
    if unnamed := [head for head in heads if not head.organ_names and head.organs != len(ORGANS) + 1]:
        raise ConfigError(
            f"--organs: the organ head of '{manifest.name}' has {unnamed[0].organs} classes, and nothing says which; "
            "import the model again with --organ-names"
        )
    names = [head.organ_names or ORGANS for head in heads]
    if len(set(names)) > 1:
        raise ConfigError(
            f"--organs: the networks of '{manifest.name}' know other organs: {', '.join(names[0])}, and "
            f"{', '.join(next(other for other in names if other != names[0]))}; give a bundle whose networks agree"
        )
    return names[0]


def organ_voters(manifest: Manifest) -> tuple[int, int]:
    """How many of the networks that vote have an organ head, and how many vote; of the method diwa one votes."""
    members = manifest.members[:1] if manifest.method == "diwa" else manifest.members
    return sum(manifest.part(member).network.organs > 0 for member in members), len(members)
