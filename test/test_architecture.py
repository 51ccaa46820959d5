"""The rule of the rooms: a file imports its own package, or one to the left (docs/architecture.md)."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

ROOMS = {
    "model": "ground | bundle | study networks | dicom inference | results | challenge hospital",
    "training": "ground | phantom | data | batches | compute | weights | judging | runs | ensembles | bundles"
    " | papers packages",
}
LEVEL = {
    top: {room: level for level, rooms in enumerate(row.split("|")) for room in rooms.split()}
    for top, row in ROOMS.items()
}
FILES = [path.relative_to(ROOT) for top in ("model", "training", "benchmark") for path in (ROOT / top).rglob("*.py")]
DOORS = [Path("process.py"), Path("score.py")]


def room(module: str) -> tuple[str, str]:
    """The top package and the room of a module: ground for a module that lies in no room."""
    top, *parts = module.split(".")
    return top, parts[0] if parts and (ROOT / top / parts[0]).is_dir() else "ground"


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports, anywhere in it, as dotted names."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("model", "training", "benchmark", "process", "score")}


@pytest.mark.parametrize("path", [*FILES, *DOORS], ids=str)
def test_a_file_imports_its_own_package_or_one_to_the_left(path: Path) -> None:
    top, own = room(".".join(path.with_suffix("").parts))
    for name in imports(path):
        where, other = room(name)
        if where == top and top in LEVEL:
            assert other == own or LEVEL[top][other] < LEVEL[top][own], f"{path} imports {name}"
        else:  # model imports itself alone; training model; benchmark all three
            assert where == "model" or top == "benchmark", f"{path} imports {name}"
            assert other != "hospital" or path == Path("score.py"), f"{path} imports {name}"


def test_every_package_is_a_room() -> None:
    for top, rooms in LEVEL.items():
        assert {path.parent.name for path in (ROOT / top).glob("*/__init__.py")} | {"ground"} == set(rooms)


def test_the_doors_are_short() -> None:
    for path in DOORS:
        assert len((ROOT / path).read_text().splitlines()) <= 60


@pytest.mark.parametrize(
    "code",
    [
        "import score",
        "from model.inference import preprocess",
        "from model.results import metrics",
        "import model.results.writing, model.results.preview, model.study.reading, model.bundle.manifest",
    ],
)
def test_this_needs_no_torch(code: str) -> None:
    code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("top", LEVEL)
def test_no_init_imports_anything(top: str) -> None:
    for path in (ROOT / top).rglob("__init__.py"):
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(ast.parse(path.read_text())))


def test_no_import_goes_in_a_circle() -> None:
    modules = {".".join(path.with_suffix("").parts): path for path in FILES}
    graph = {
        module: {other for name in imports(path) for other in (name, name.rpartition(".")[0]) if other in modules}
        for module, path in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_a_class_name_stands_once() -> None:
    names = [
        node.name
        for path in FILES
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []
