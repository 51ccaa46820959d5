"""The weights of a run: those of --weights, and those of --pet-only for studies without CT."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace

from model.bundle.choice import bundle_of_options
from model.bundle.manifest import Bundle, chosen_bundle
from model.bundle.organs import organ_names
from model.errors import ConfigError, WeightsError
from model.hospital.find.entry import Entry
from model.hospital.job import Options
from model.results.rule_options import check_organs_known
from model.study.reading import ct_not_read


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """main: of --weights. pet_only: of --pet-only, for studies without CT; None: such a study is scored by `main` if
    that sees PET alone, and else not at all.
    """

    main: Bundle
    pet_only: Bundle | None = None

    @property
    def every(self) -> tuple[Bundle, ...]:
        return (self.main, self.pet_only) if self.pet_only else (self.main,)

    @property
    def take_pet_alone(self) -> bool:
        """Whether a study without CT can be scored."""
        return self.pet_only is not None or self.main.manifest.pet_alone

    def of(self, entry: Entry) -> Bundle:
        """The bundle that scores a study."""
        return self.pet_only if self.pet_only and entry.pet_alone else self.main

    def seen(self, entry: Entry) -> Entry:
        """The study as its networks see it: without its CT, and with a warning, where they see PET alone."""
        if entry.pet_alone or not self.main.manifest.pet_alone:
            return entry
        note = ct_not_read(f"a CT ({len(entry.ct)} file{'s' * (len(entry.ct) > 1)})")
        return replace(entry, ct=(), warnings=(*entry.warnings, note))

    def possible(self, entry: Entry, options: Options) -> tuple[Entry, Options]:
        """The study and what to write for it: without what the bundle of --pet-only cannot give, and with a warning."""
        bundle, notes = self.of(entry), list(entry.warnings)
        if bundle is self.main:
            return entry, options
        name = bundle.manifest.name
        if options.organs and why_not(lambda: organ_names(bundle.manifest)):
            options = replace(options, organs=False)
            notes.append(f"organs were not looked for: the networks of '{name}', for PET alone, know none")
        if options.disagreement and why_not(lambda: check_disagreement(bundle)):
            options = replace(options, disagreement=False)
            notes.append(f"no disagreement was written: '{name}', for PET alone, has one network that votes")
        return replace(entry, warnings=tuple(notes)), options


def checked_bundles(options: Namespace) -> Bundles:
    """The bundles that the options name. Raises ConfigError if they cannot give what is asked for, WeightsError."""
    main = bundle_of_options(options)
    if options.disagreement:
        check_disagreement(main)
    if options.organs:
        check_organs_known(options, organ_names(main.manifest))  # raises ConfigError for a bundle that knows none
    return Bundles(main=main, pet_only=pet_only_bundle(options.pet_only, options.limit, main))


def pet_only_bundle(name: str | None, limits: list[str], main: Bundle) -> Bundle | None:
    """The bundle of --pet-only, as its manifest has it; None without one. Raises ConfigError and WeightsError."""
    if not name:
        return None
    try:
        bundle = chosen_bundle(name, None, limits)
    except WeightsError as error:
        raise WeightsError(f"--pet-only: {error}") from None
    channels = list(bundle.manifest.channels)
    if not bundle.manifest.pet_alone:
        raise ConfigError(
            f"--pet-only '{name}' is for studies without CT, and the networks of '{bundle.manifest.name}' see "
            f"{' and '.join(channels)}; give a bundle whose channels are [PET] (docs/weights.md says how one is made)"
        )
    if main.manifest.pet_alone:
        raise ConfigError(
            f"--pet-only '{name}' goes with weights that see PET and CT, and those of --weights, "
            f"'{main.manifest.name}', see PET alone; leave --pet-only out: they score every study"
        )
    return bundle


def check_disagreement(bundle: Bundle) -> None:
    """Raise ConfigError for --disagreement with a bundle of one network."""
    manifest = bundle.manifest
    if manifest.method != "eoa" or len(manifest.members) < 2:
        raise ConfigError(
            f"--disagreement needs two or more networks that vote, and '{manifest.name}' by {manifest.method} has one; "
            "leave the option out, or give a bundle of several members with --weights"
        )


def why_not(ask: Callable[[], object]) -> str:
    """Why something is refused; "" if it is not."""
    try:
        ask()
    except ConfigError as error:
        return str(error)
    return ""
