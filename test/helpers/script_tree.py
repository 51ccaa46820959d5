"""A copy of the shell scripts in a folder, with a stand-in for the container engine that notes what it is asked for."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash") or "/bin/bash"
COPIED = ["build.sh", "test.sh", "export.sh", "engine.sh", "score.sh"]

# It writes every call into $CALLS. `save` writes an image of four bytes. $IS_FOR is the image's environment.
# In invoke mode the container lives until it is stopped, and answers with $HEALTH and $ANSWER.
STAND_IN = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  save*) printf 'save' ;;
  --version) echo podman ;;
  *api-method*) echo "${API:-exec}" ;;
  *Config.Env*) printf 'PATH=/bin\\n%s\\n\\n' "${IS_FOR:-}" ;;
  image*) echo 4 ;;
  *:/input:ro*) [ "${API:-exec}" = exec ] || until [ -e "$CALLS.stopped" ]; do sleep 0.1; done ;;
  *GET*/health*) cat > /dev/null; echo "$HEALTH" ;;
  *POST*/invoke*) cat > /dev/null; echo "$ANSWER" ;;
  stop*) touch "$CALLS.stopped" ;;
esac
"""


def copy_scripts(folder: Path) -> Path:
    """The scripts with a small bundle, version 1.2.3, and podman's stand-in. Its calls are in folder/calls."""
    for script in COPIED:
        shutil.copy(ROOT / script, folder / script)
    (folder / "model").mkdir()
    (folder / "model/__init__.py").write_text('"""Lesions."""\n\n__version__ = "1.2.3"\n')
    (folder / "weights/eoa").mkdir(parents=True)
    (folder / "weights/eoa/manifest.json").write_text("{}")
    (folder / "weights/eoa/one.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "bin").mkdir()
    write_program(folder / "bin/podman", STAND_IN)
    return folder


def write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def run_script(tree: Path, script: str, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run a script with the stand-in engine; CONTAINER_ENGINE is podman unless a docker stands in, too."""
    engine = {} if (tree / "bin/docker").exists() else {"CONTAINER_ENGINE": "podman"}
    settings = {"PATH": f"{tree / 'bin'}:/usr/bin:/bin", "CALLS": str(tree / "calls"), **engine, **environment}
    command = [BASH, script, *arguments]
    run = subprocess.run(command, check=False, cwd=tree, env=settings, capture_output=True, text=True)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stderr if status else run.stdout
