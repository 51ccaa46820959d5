"""The options of score.py --listen: who may send, where results go, and when a study is complete."""

import argparse
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError

LONGEST_AET = 16  # characters of an AE title (DICOM PS3.5, 6.2)
ONLY_WITH_LISTEN = ("aet", "send", "callers", "bind", "quiet_seconds", "complete_on_release", "keep_days")
NOT_WITH_LISTEN = (
    "studies",
    "truth",
    "dry_run",
    "cluster",
    "slurm",
    "compare_dates",
    "recompute",
    "masks",
    "drop",
    "study",
    "undo_edits",
    "liver_sphere",
    "blood_sphere",
)  # spheres: they are of one patient, and overrides.csv has a column for them
BIND, QUIET_S, KEEP_DAYS = "127.0.0.1", 60.0, 7.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A PACS: its address and its AE title."""

    host: str
    port: int
    aet: str

    def __str__(self) -> str:
        return f"{self.aet} at {self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Listening:
    """How score.py listens. callers: AE titles that are let in. send: where results go. quiet_s: a study is complete
    when no image of it came for so long; on_release: also when the association that brought it ended. keep_days:
    received images are removed so long after the last one came; 0: never. tls: PEM files of certificate authority,
    certificate and key.
    """

    port: int
    aet: str
    send: Peer
    bind: str = BIND
    callers: tuple[str, ...] = ()
    quiet_s: float = QUIET_S
    on_release: bool = False
    keep_days: float = KEEP_DAYS
    tls: tuple[Path, Path, Path] | None = None


def add_pacs_options(group: Any) -> None:
    """Add the options to a group of the parser."""
    _add_peers(group.add_argument)
    _add_times(group.add_argument)


def _add_peers(add: Any) -> None:
    add(
        "--listen",
        type=int,
        metavar="PORT",
        help="take studies from a PACS on this port in place of STUDIES, score each when it is complete, and send its "
        "results back; until it is stopped. Writes RTSTRUCT, SR and picture, too (default: no, and no network; cost: "
        "one open port, and the disk for what comes until --keep-days)",
    )
    add("--aet", metavar="NAME", help="with --listen: this program's own AE title, 1 to 16 characters (required)")
    add(
        "--send",
        metavar="HOST:PORT:AET",
        help="with --listen: the PACS that gets the results (required; cost: a few MB a study over the network)",
    )
    add(
        "--from",
        dest="callers",
        nargs="+",
        metavar="AET",
        help="with --listen: the AE titles that are let in (default: that of --send alone)",
    )
    add(
        "--bind",
        metavar="ADDRESS",
        help=f"with --listen: the IP address to listen at; 0.0.0.0 is every one of this machine (default: {BIND}, this "
        "machine alone; cost: whoever reaches the address can try to connect)",
    )


def _add_times(add: Any) -> None:
    add(
        "--quiet-seconds",
        type=float,
        metavar="N",
        help=f"with --listen: a study is complete when no image of it came for N seconds, 1 to 86400 (default: "
        f"{QUIET_S:g}; cost: the wait before each study)",
    )
    add(
        "--complete-on-release",
        action="store_true",
        help="with --listen: a study is also complete when the association that brought it ends; with --pet-only, one "
        "without CT still waits for --quiet-seconds (default: no; cost: a PACS that sends PET and CT in two "
        "associations gets a failure for the first, until the second came)",
    )
    add(
        "--keep-days",
        type=float,
        metavar="N",
        help=f"with --listen: remove received images N days after the last of their study came, 0: never (default: "
        f"{KEEP_DAYS:g}; cost: the disk that they take, some 300 MB a study)",
    )


def listening_of(options: argparse.Namespace) -> Listening | None:
    """The settings in the options; None without --listen. Raises ConfigError."""
    given = [name for name in ONLY_WITH_LISTEN if getattr(options, name) not in (None, False)]
    if options.listen is None:
        if given:
            raise ConfigError(f"{_option(given[0])} goes with --listen; give --listen PORT, or leave it out")
        return None
    for name in NOT_WITH_LISTEN:
        if getattr(options, name) not in (None, False, 0):
            raise ConfigError(
                f"{_option(name)} does not go with --listen, which takes studies from the PACS; leave it out"
            )
    if not 1 <= options.listen <= 65535:
        raise ConfigError(f"--listen must be a port from 1 to 65535, got {options.listen}")
    for name in ("aet", "send"):
        if not getattr(options, name):
            raise ConfigError(f"--listen needs {_option(name)}; give it as --help says")
    peer = peer_of(options.send)
    return Listening(
        port=options.listen,
        aet=checked_aet(options.aet, "--aet"),
        send=peer,
        bind=_address(options.bind or BIND),
        callers=tuple(checked_aet(aet, "--from") for aet in options.callers or (peer.aet,)),
        quiet_s=_between("quiet_seconds", options.quiet_seconds, QUIET_S, 1, 86400),
        on_release=options.complete_on_release,
        keep_days=_between("keep_days", options.keep_days, KEEP_DAYS, 0, 36500),
        tls=tls_of(options),
    )


def peer_of(text: str) -> Peer:
    """The PACS that --send names. Raises ConfigError."""
    host, _, rest = text.rpartition(":")[0].rpartition(":")
    port = rest if rest.isascii() and rest.isdigit() else "0"
    if not host or not 1 <= int(port) <= 65535:
        raise ConfigError(f"--send must be HOST:PORT:AET, such as pacs.hospital:104:ARCHIVE, got {text!r}")
    return Peer(host=host.strip("[]"), port=int(port), aet=checked_aet(text.rpartition(":")[2], "--send"))


def checked_aet(aet: str, option: str) -> str:
    """An AE title without outer spaces. Raises ConfigError."""
    aet = aet.strip()
    if not re.fullmatch(rf"[ -\[\]-~]{{1,{LONGEST_AET}}}", aet):
        raise ConfigError(
            f"{option}: an AE title has 1 to {LONGEST_AET} letters of ASCII and no backslash, got {aet!r}"
        )
    return aet


def tls_of(options: argparse.Namespace) -> tuple[Path, Path, Path] | None:
    """The PEM files, all three or none. Raises ConfigError if one is not there."""
    files = (options.tls_ca, options.tls_cert, options.tls_key)
    for path in files:
        if path is not None and not path.is_file():
            raise ConfigError(f"the TLS file '{path}' is not there; give a PEM file")
    return files if all(files) else None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"--bind must be an IP address such as 127.0.0.1 or 0.0.0.0, got {text!r}") from None


def _between(name: str, value: float | None, default: float, low: float, high: float) -> float:
    value = default if value is None else value
    if not low <= value <= high:
        raise ConfigError(f"{_option(name)} must be {low:g} to {high:g}, got {value:g}")
    return value


def _option(name: str) -> str:
    """How an option is called on the command line."""
    special = {"callers": "--from", "studies": "STUDIES"}
    return special.get(name, f"--{name.replace('_', '-')}")
