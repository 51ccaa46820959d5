"""Job scripts for SLURM: what all runs need first, then one task a run in a job array, then what sums up.

A job that nears its time limit gets SIGUSR1, stops at a checkpoint and is queued again; so a run may take many jobs.
"""

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError
from training.ensembles.sweep import ROOT
from training.weights import checkpoint

TIME = re.compile(r"(?:\d+-)?\d{1,2}:\d\d:\d\d")  # of sbatch --time: days-hours:minutes:seconds
MOST_LEAD_S = 65_535  # of sbatch --signal
FIRST, RUNS, SUMMARY = "first", "runs", "summary"
SCRIPT = """#!/bin/bash
{directives}
# Written by python -m training. The command stops at a checkpoint when SIGUSR1 comes, and the job is queued again.
commands=(
{commands}
)
cd {root} || exit 1
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}
near_limit=no
trap 'near_limit=yes; kill -USR1 "$child" 2>/dev/null' USR1
eval "${{commands[${{SLURM_ARRAY_TASK_ID:-0}}]}} &"
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # the trap ends a wait before the command ends
    wait "$child"
    code=$?
done
if [ "$near_limit" = yes ]; then
    wait "$child"
    code=$?
    if [ "$code" -eq 0 ] || [ "$code" -eq 138 ]; then  # 138: the signal came before the command could take it
        exec scontrol requeue "${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
    fi
fi
exit "$code"
"""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How jobs are written. time: the limit of each, as of sbatch; lead_s: seconds before it at which SIGUSR1 comes;
    more: further words for sbatch, such as --gres=gpu:1.
    """

    name: str
    time: str = "04:00:00"
    lead_s: int = 300
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not TIME.fullmatch(self.time):
            raise ConfigError(f"--time must be HH:MM:SS or D-HH:MM:SS, got {self.time!r}")
        days, _, clock = self.time.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
        most = min(total - 1, MOST_LEAD_S)
        if not 0 < self.lead_s <= most:
            raise ConfigError(
                f"--lead-seconds must be from 1 to {most}, below --time ({total} s) and sbatch's most for a signal "
                f"({MOST_LEAD_S}), got {self.lead_s}"
            )
        if wrong := [word for word in self.more if not word.startswith("-") or "\n" in word]:
            raise ConfigError(f"--sbatch takes options of sbatch in the form --name=value, got {wrong[0]!r}")


def write_scripts(folder: Path, stages: dict[str, list[list[str]]], options: JobOptions) -> dict[str, Path]:
    """Write a script for every stage. stages: {stage: the commands of its tasks, words after `python -m training`}.

    Returns the scripts by stage. One that is there is replaced.
    """
    scripts: dict[str, Path] = {}
    for stage, commands in stages.items():
        path = folder / f"{stage}.sh"
        checkpoint.write_text(path, script(stage, commands, folder.resolve(), options))
        path.chmod(0o755)
        scripts[stage] = path
    return scripts


def script(stage: str, commands: list[list[str]], logs: Path, options: JobOptions) -> str:
    """The text of a stage's script; a stage of several commands is a job array of as many tasks."""
    array = len(commands) > 1
    words = [f"--job-name={options.name}-{stage}", f"--time={options.time}", f"--signal=B:USR1@{options.lead_s}"]
    words += ["--requeue", "--open-mode=append", f"--output={logs}/{stage}-{'%A_%a' if array else '%j'}.log"]
    words += [f"--array=0-{len(commands) - 1}"] * array + list(options.more)
    lines = [shlex.quote(shlex.join([sys.executable, "-m", "training", *command])) for command in commands]
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {shlex.quote(word)}" for word in words),
        commands="\n".join(f"    {line}" for line in lines),
        root=shlex.quote(str(ROOT)),
    )


def submit(scripts: dict[str, Path]) -> dict[str, str]:
    """Submit the scripts in their order. Returns the jobs' numbers by stage.

    A stage waits until the one before has ended well, the summary until it has ended. Raises ConfigError if there is no
    sbatch, or if it refuses.
    """
    jobs: dict[str, str] = {}
    before: str | None = None
    for stage, path in scripts.items():
        kind = "afterany" if stage == SUMMARY else "afterok"
        depends = [f"--dependency={kind}:{before}", "--kill-on-invalid-dep=yes"] if before else []
        words = ["sbatch", "--parsable", *depends, str(path)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ConfigError(f"cannot run sbatch: {error.strerror}; submit '{path}' where SLURM is") from None
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            submitted = f"; submitted before: {', '.join(jobs.values())}" if jobs else ""
            raise ConfigError(f"sbatch refuses '{path}': {reason}{submitted}; mend --sbatch or --time")
        before = jobs[stage] = done.stdout.strip().split(";")[0]
    return jobs


def write_jobs(folder: Path, stages: dict[str, list[list[str]]], options: argparse.Namespace, name: str) -> None:
    """What --slurm does: write the scripts below `folder`, print their paths, and submit them with --submit."""
    try:
        more = tuple(shlex.split(options.sbatch))
    except ValueError as error:
        raise ConfigError(f"--sbatch {options.sbatch!r} cannot be divided into words: {error}; close it") from None
    jobs = JobOptions(name=name, time=options.time, lead_s=options.lead_seconds, more=more)
    scripts = write_scripts(folder / "slurm", {stage: c for stage, c in stages.items() if c}, jobs)
    for stage, path in scripts.items():
        print(f"wrote '{path}': {len(stages[stage])} task{'s' * (len(stages[stage]) > 1)}")
    if options.submit:
        print("submitted: " + ", ".join(f"{stage} as job {number}" for stage, number in submit(scripts).items()))


def check_slurm_options(options: argparse.Namespace, alone: Sequence[str]) -> None:
    """Raise ConfigError where --slurm stands with options that it excludes, or --submit without it.

    alone: names of those options; --parallel counts from 2 on.
    """
    if options.submit and not options.slurm:
        raise ConfigError("--submit submits what --slurm writes; give --slurm, too")
    values = {name: getattr(options, name) for name in alone}
    wrong = [n for n, v in values.items() if (v > 1 if n == "parallel" else v is not None and v is not False)]
    if options.slurm and wrong:
        raise ConfigError(f"--slurm writes jobs for all runs; give it without --{wrong[0].replace('_', '-')}")


def add_slurm_options(parser: argparse.ArgumentParser) -> None:
    """--slurm, --submit, --time, --lead-seconds and --sbatch."""
    add = parser.add_argument
    add(
        "--slurm",
        action="store_true",
        help="train nothing here: write RUN/slurm/first.sh, runs.sh (a job array, one run a task) and summary.sh. A "
        "job that nears its limit stops at a checkpoint and is queued again (default no)",
    )
    add("--submit", action="store_true", help="with --slurm: submit the jobs, each after the one before (default no)")
    add("--time", default="04:00:00", help="with --slurm: time limit of a job (default 04:00:00)")
    add(
        "--lead-seconds",
        type=int,
        default=300,
        metavar="S",
        help="with --slurm: seconds before the limit at which a job is asked to stop (default 300)",
    )
    add(
        "--sbatch",
        default="",
        metavar="WORDS",
        help="with --slurm: further options of sbatch, for example --sbatch='--gres=gpu:1 --mem=32G', with the '=' "
        "(default none)",
    )
