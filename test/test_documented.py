"""Every documented command line is parsed by its own command. Nothing is run."""

import argparse
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "training/README.md",
    ROOT / "weights/README.md",
]
SOURCES = [
    ROOT / "process.py",
    ROOT / "score.py",
    *sorted((ROOT / "training").rglob("*.py")),
    *sorted((ROOT / "benchmark").rglob("*.py")),
]
CONFIGS = sorted((ROOT / "training/configs").rglob("*.yaml"))
BEGINS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(?:python3?|torchrun) (?!-c)\S")
NOT_PARSED = re.compile(  # not ours, or without options
    r"-m (?:pytest|pip|venv|monai\.bundle)\b|process\.py$|bad_inputs\.py|model\.networks\.weights"
    r"|training (?:COMMAND|--help)"
)
NO_WORDS = ("...", "&")  # a placeholder, and the shell's


class Parsed(BaseException):
    """The command line was good."""


def documented() -> list[tuple[str, str]]:
    """(file, command line) of fenced blocks and code spans in the pages, and of indented lines in docstrings."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"```\w*\n(.*?)```", page.read_text(), re.S)
        found += [(page, line.strip()) for block in blocks for line in joined(block)]
        rest = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        found += [(page, " ".join(span.split())) for span in re.findall(r"`([^`]+)`", rest)]
    for source in SOURCES:
        docstring = re.match(r'r?"""(.*?)"""', source.read_text(), re.S)
        lines = [line.strip() for line in joined(docstring[1] if docstring else "") if line.startswith("    ")]
        found += [
            (source, re.split(r" {3,}(?=[^-\s])", line)[0]) for line in lines
        ]  # without the explanation behind it
    for config in CONFIGS:
        text = " ".join(line.lstrip("# ") for line in config.read_text().splitlines() if line.startswith("#"))
        found += [(config, line) for line in re.findall(r"`(python -m [^`]+)`", text)]
    kept = [(path, line) for path, line in found if BEGINS.match(line) and not NOT_PARSED.search(line)]
    return [(str(path.relative_to(ROOT)), line) for path, line in dict.fromkeys(kept)]


def joined(text: str) -> list[str]:
    """Lines; a line that ends in a backslash and the next are one."""
    return re.sub(r"\\+\n\s*", " ", text).splitlines()


def words_of(line: str) -> list[str]:
    """The words that the shell would pass, from python or torchrun on, without comments and placeholders."""
    words = shlex.split(re.sub(r"[][]", "", line).replace('"..."', "TEXT"), comments=True)
    first = next(number for number, word in enumerate(words) if re.search(r"(python3?|torchrun)$", word))
    return [word for word in words[first:] if word not in NO_WORDS]


def parse(words: list[str], partly: bool, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The options that a command reads from the words behind its name. partly: required ones may be absent."""
    real, seen = argparse.ArgumentParser.parse_args, []

    def checked(parser: argparse.ArgumentParser, arguments=None, namespace=None) -> None:
        for action in (*parser._actions, *parser._mutually_exclusive_groups) if partly else ():
            action.required = False
            if not getattr(action, "option_strings", True):
                action.nargs = "?" if action.nargs is None else "*"
        seen.append(real(parser, arguments, namespace))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", checked)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "path", [str(ROOT), str(ROOT / "test/helpers"), *sys.path])
    name = "training.__main__" if words[0] == "training" else words[0]
    module = importlib.import_module(Path(name).stem if name.endswith(".py") else name)
    with pytest.raises(Parsed):
        module.main()
    return seen[0]


def run_by_torchrun(words: list[str]) -> list[str]:
    """The module that torchrun runs, and the words that it passes on, by its own parser."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words)
    assert options.module
    return [options.training_script, *options.training_script_args]


FOUND = documented()


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page}-{n}" for n, (page, _) in enumerate(FOUND)])
def test_a_documented_command_line_is_parsed(page: str, line: str, monkeypatch) -> None:
    first, *words = words_of(line)
    words = run_by_torchrun(words) if first.endswith("torchrun") else [word for word in words if word != "-m"]
    parse(words, "..." in line or words[1:] in ([], words[1:2] * (words[0] == "training")), monkeypatch)


def test_commands_are_found_in_pages_docstrings_and_settings() -> None:
    pages = {page for page, _ in FOUND}
    assert pages >= {
        "README.md",
        "docs/cluster.md",
        "docs/phantoms.md",
        "training/README.md",
        "training/data/split.py",
        "training/ensembles/sweep.py",
        "training/configs/shipped.yaml",
    }
    assert {page for page, line in FOUND if line.startswith("torchrun")} == {
        "training/README.md",
        "training/runs/train.py",
    }
    assert len(FOUND) > 100


def test_the_page_on_benchmarks_names_every_one() -> None:
    files = [path for path in (ROOT / "benchmark").rglob("*.py") if "def main(" in path.read_text()]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert set(re.findall(r"`(?:python -m )?(benchmark\.[a-z_.]+)", (ROOT / "docs/benchmarks.md").read_text())) == names


@pytest.mark.parametrize("option", ["--run", "--start"])
def test_without_two_dashes_torchrun_takes_our_options_for_its_own(option: str, capsys) -> None:
    """That is why the pages have the dashes."""
    with pytest.raises(SystemExit):
        run_by_torchrun(["--nproc_per_node", "2", "-m", "training", "train", option, "x"])
    assert f"ambiguous option: {option}" in capsys.readouterr().err
    assert run_by_torchrun(["-m", "training", "--", "train", option, "x"]) == ["training", "train", option, "x"]


@pytest.mark.parametrize("kind", ["volumes", "slices", "resenc"])
def test_the_chains_command_lines_are_parsed(kind: str, tmp_path, monkeypatch) -> None:
    """training/chain.sh, with a stand-in for Python that notes its arguments."""
    (tmp_path / "python").write_text('#!/bin/sh\n{ printf "%s\\n" "$@"; echo; } >> "$CALLS"\n')
    (tmp_path / "python").chmod(0o755)
    words = ["bash", str(ROOT / "training/chain.sh"), str(tmp_path / "run"), kind]
    environment = os.environ | {"PYTHON": str(tmp_path / "python"), "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = [call.split("\n") for call in (tmp_path / "calls").read_text().strip("\n").split("\n\n")]
    names = [
        "phantoms",
        "index",
        "split",
        "prepare",
        *(["pretrain"] if kind == "volumes" else []),
        "train",
        "sweep",
        "select",
        "export",
        "export",
        "evaluate",
    ]
    assert [call[:3] for call in calls] == [["-m", "training", name] for name in names]
    for call in calls:
        with monkeypatch.context() as patched:
            parse(call[1:], False, patched)
