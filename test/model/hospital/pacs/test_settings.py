"""The options of score.py --listen."""

from pathlib import Path

import pytest

from model.errors import ConfigError
from model.hospital.options import arguments
from model.hospital.pacs.settings import Peer, peer_of

LISTEN = ["--listen", "11112", "--aet", "LESIONS", "--send", "pacs:104:ARCHIVE", "--output", "out"]


def test_without_more_it_listens_to_this_machine_and_lets_the_archive_in() -> None:
    options = arguments(LISTEN)
    pacs = options.pacs
    assert (pacs.bind, pacs.callers, pacs.send) == (
        "127.0.0.1",
        ("ARCHIVE",),
        Peer(host="pacs", port=104, aet="ARCHIVE"),
    )
    assert options.rtstruct and options.picture and options.sr and pacs.tls is None


def test_a_folder_of_studies_needs_none_of_it() -> None:
    options = arguments(["studies", "--output", "out"])
    assert options.pacs is None and options.studies == Path("studies").absolute() and not options.picture


@pytest.mark.parametrize("text", ["pacs", "pacs:104", ":104:A", "pacs:0:A", "pacs:66000:A", "pacs:104:", "pacs:x:A"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--send"):
        peer_of(text)


def test_an_address_of_ipv6_is_taken() -> None:
    assert peer_of("[::1]:104:A") == Peer(host="::1", port=104, aet="A")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "o"], "STUDIES is missing"),
        (["s", "--output", "o", "--aet", "X"], "--aet goes with --listen"),
        (["s", "--output", "o", "--complete-on-release"], "--complete-on-release goes with --listen"),
        (["s", *LISTEN], "STUDIES does not go with --listen"),
        ([*LISTEN, "--slurm", "2"], "--slurm does not go with --listen"),
        ([*LISTEN, "--truth"], "--truth does not go with --listen"),
        ([*LISTEN, "--compare-dates"], "--compare-dates does not go with --listen"),
        ([*LISTEN[:-2], "--recompute"], "--recompute does not go with --listen"),
        ([*LISTEN, "--liver-sphere", "1,2,3"], "--liver-sphere does not go with --listen"),
        (["--drop", "3"], "RESULTS is missing"),
        (["--listen", "0", *LISTEN[2:]], "a port from 1 to 65535, got 0"),
        (["--listen", "1", "--output", "o"], "--listen needs --aet"),
        ([*LISTEN, "--aet", "A" * 17], "1 to 16 letters"),
        ([*LISTEN, "--from", "A\\B"], "--from: an AE title"),
        ([*LISTEN, "--bind", "everywhere"], "--bind must be an IP address"),
        ([*LISTEN, "--quiet-seconds", "0"], "--quiet-seconds must be 1 to 86400, got 0"),
        ([*LISTEN, "--tls-ca", "gone.pem"], "'gone.pem' is not there"),
    ],
)
def test_options_that_contradict_each_other_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        arguments(words)
