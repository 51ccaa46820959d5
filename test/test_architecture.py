import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TABLE = [
    Path(name) for name in re.findall(r"^\| `([a-z_/]+\.py)` \|", (ROOT / "docs/architecture.md").read_text(), re.M)
]


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.split(".")[0] in ("model", "training", "benchmark", "process", "test")}


def test_every_file_of_the_road_is_in_the_table_and_nothing_else() -> None:
    files = {p.relative_to(ROOT) for p in (ROOT / "model").glob("*.py")} - {Path("model/__init__.py")}
    assert files | {Path("process.py"), Path("score.py")} == {
        p for p in TABLE if p.parts[0] not in ("training", "benchmark")
    }  # fmt: skip
    for folder in ("training", "benchmark"):
        found = {p.relative_to(ROOT) for p in (ROOT / folder).glob("*.py")} - {Path(folder, "__init__.py")}
        assert found == {p for p in TABLE if p.parts[0] == folder}


@pytest.mark.parametrize("number", range(len(TABLE)), ids=[str(p) for p in TABLE])
def test_a_file_imports_only_what_stands_before_it(number: int) -> None:
    modules = {".".join(path.with_suffix("").parts) for path in TABLE}
    before = {".".join(path.with_suffix("").parts) for path in TABLE[:number]}
    assert (imports(ROOT / TABLE[number]) & modules) <= before


def test_model_and_process_import_neither_training_nor_benchmark() -> None:
    for path in [*(ROOT / "model").glob("*.py"), ROOT / "process.py", ROOT / "score.py"]:
        assert not {name for name in imports(path) if name.split(".")[0] in ("training", "benchmark", "test")}, path


def test_manifest_reading_and_everything_before_needs_no_torch() -> None:
    for name in ("config", "files", "manifest", "geometry", "integrity", "reading", "resampling", "writing", "preview"):
        assert not re.search(r"^(import|from) torch", (ROOT / f"model/{name}.py").read_text(), re.M), name


def test_a_batch_finds_plans_and_reports_without_torch() -> None:
    code = "import score, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
