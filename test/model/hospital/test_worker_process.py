"""The parent's side of a scoring process, with one that scores nothing."""

import os
from pathlib import Path

from model.hospital import worker_process
from model.hospital.console import print_estimate
from model.hospital.find.entry import Entry
from model.hospital.job import Job, Options, Setup
from model.hospital.worker_process import WorkerProcess

STUB = """
import json, os, sys
replies = os.fdopen(int(sys.argv[1]), "w")
for line in sys.stdin:
    sent = json.loads(line)
    answers = [{"state": "ready"}]
    if isinstance(sent, list):
        answers = [{"state": "estimate", "seconds": 300.0, "words": "about 5 min"}, {"state": "done", "row": {}}]
    for answer in answers:
        replies.write(json.dumps(answer) + "\\n")
    replies.flush()
"""


def test_how_long_a_study_takes_comes_before_its_answer(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "model" / "hospital"
    package.mkdir(parents=True)
    (package / "worker.py").write_text(STUB)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker_process, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    entry = Entry(identity="x", source=tmp_path, kind="images", pet=(), ct=())
    found: list[tuple[str, float, str]] = []
    with WorkerProcess(
        Setup(weights="w", method=None, device="cpu"), on_estimate=lambda *what: found.append(what)
    ) as process:
        for name in ("a", "b"):
            job = Job(name=name, entry=entry, root=tmp_path, output=tmp_path, key="k", options=Options())
            assert process.ask(job, None)["state"] == "done"
    assert found == [("a", 300.0, "about 5 min"), ("b", 300.0, "about 5 min")]


def test_a_study_that_would_be_given_up_is_announced(capsys) -> None:
    print_estimate("s-1", "about 3 h on this CPU (40 passes of 96 windows)", 10800, 10800 * 12, 120)
    print_estimate("s-1", "about 3 h on this CPU (40 passes of 96 windows)", 10800, 10800, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "s-1: about 3 h on this CPU (40 passes of 96 windows); all studies: about 36 h"
    assert lines[1].startswith("warning: a study is given up after 120 min, which is less; ")
    assert lines[2:] == ["s-1: about 3 h on this CPU (40 passes of 96 windows)"]
