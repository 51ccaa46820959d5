"""What got worse between two results of one benchmark, by more than the noise and by more than 10 % (Dice: 0.05 %).

    python -m benchmark.compare old.json new.json

Noise is the spread of the runs, (largest - smallest) / median: the larger one of both results. Ends with exit code 1 if
anything got worse by more, 2 if the results cannot be compared.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmark.record import machine_text, read, table


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, help="what a benchmark's --json wrote before")
    parser.add_argument("new", type=Path, help="what it wrote now")
    parser.add_argument("--all", action="store_true", help="also print what did not change (default: only what did)")
    options = parser.parse_args()
    try:
        old, new = read(options.old), read(options.new)
        if old["benchmark"] != new["benchmark"]:
            raise ValueError(
                f"'{options.old}' is of benchmark.{old['benchmark']}, '{options.new}' of "
                f"benchmark.{new['benchmark']}; compare two of one benchmark"
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    warn_of_differences(old, new)
    changes = [
        change(name, old["figures"][name], new["figures"][name]) for name in new["figures"] if name in old["figures"]
    ]
    shown = [one for one in changes if options.all or one["verdict"] != "same"]
    head = ["figure", "before", "now", "change", "noise", ""]
    if shown:
        print("\n".join(table(head, [row(one) for one in shown])))
    missing = sorted(set(old["figures"]) - set(new["figures"]))
    if missing:
        print(f"no longer measured: {', '.join(missing)}")
    worse = [one for one in changes if one["verdict"] == "worse"]
    print(f"{len(changes)} figures compared, {len(worse)} worse")
    return 1 if worse else 0


def warn_of_differences(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Print a warning if the machine or the command differs."""
    if old["machine"] != new["machine"]:
        machines = f"{machine_text(old['machine'])} before, {machine_text(new['machine'])} now"
        print(f"warning: the machine differs: {machines}", file=sys.stderr)
    if old["command"] != new["command"]:
        print(f"warning: the command differs: {old['command']} before, {new['command']} now", file=sys.stderr)


def change(name: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The change of a figure as a share, its noise, and a verdict: worse, same or better."""
    before, now = (statistics.median(one["values"]) for one in (old, new))
    noise = max(spread(old["values"]), spread(new["values"]))
    share = (now - before) / abs(before) if before else (0.0 if now == before else float("inf"))
    worse_by = share if new["better"] == "less" else -share
    limit = max(noise, new["least"])
    verdict = "worse" if worse_by > limit else "better" if worse_by < -limit else "same"
    return {
        "name": name,
        "unit": new["unit"],
        "before": before,
        "now": now,
        "share": share,
        "noise": noise,
        "verdict": verdict,
    }


def spread(values: list[float]) -> float:
    middle = abs(statistics.median(values))
    return (max(values) - min(values)) / middle if middle else 0.0


def row(one: dict[str, Any]) -> list[str]:
    unit = f" {one['unit']}" if one["unit"] else ""
    return [
        one["name"],
        f"{one['before']:.4g}{unit}",
        f"{one['now']:.4g}{unit}",
        f"{100 * one['share']:+.1f} %",
        f"{100 * one['noise']:.1f} %",
        one["verdict"],
    ]


if __name__ == "__main__":
    sys.exit(main())
