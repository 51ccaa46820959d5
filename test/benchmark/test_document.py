import pytest
from benchmark_results import result
from conftest import ROOT

from benchmark.document import document, main
from benchmark.record import read, shown_words


def test_the_page_holds_the_tables_as_printed_with_command_machine_and_date(tmp_path) -> None:
    one = read(tmp_path / result(tmp_path, "one"))
    one |= {
        "title": "Inference",
        "command": "python -m benchmark.inference --runs 1",
        "date": "2026-01-02",
        "commit": "abc",
        "printed": ["| a | b |", "| --- | --- |", "| 1 | 2 |"],
    }
    page = document([one, one | {"title": "Training"}])
    assert page.index("## Inference") < page.index("## Training")
    machine = "c, 2 cores, 2 threads used, 8 GB, no GPU; Python 3, torch 2"
    for text in (
        "```\npython -m benchmark.inference --runs 1\n```",
        f"2026-01-02, commit abc; {machine}",
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n",
    ):
        assert text in page


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_not_a_result_is_refused(content, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "r.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["document", str(tmp_path / "r.json"), "--output", str(tmp_path / "p.md")])
    assert main() == 2 and "r.json" in capsys.readouterr().err and not (tmp_path / "p.md").exists()


def test_the_page_of_this_project_is_made_of_the_results_beside_it() -> None:
    results = sorted((ROOT / "benchmark/results").glob("*.json"))
    assert results
    assert (ROOT / "docs/performance.md").read_text() == document([read(path) for path in results])


def test_a_command_is_shown_without_its_output_and_without_folders_of_this_machine() -> None:
    words = "--runs 3 --json /some/where/r.json --nnunet /opt/env/bin/python3 --studies some/folder --json=r".split()
    assert shown_words(words) == ["--runs", "3", "--nnunet", "python3", "--studies", "some/folder"]


def test_a_result_of_an_older_version_is_read_by_the_names_of_today(tmp_path) -> None:
    path = result(tmp_path, "old", benchmark="floor", **{"floor at 160^3": {"values": [1.0]}})
    found = read(tmp_path / path)
    assert found["benchmark"] == "roofline" and list(found["figures"]) == ["roofline at 160^3"]
