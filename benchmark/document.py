"""Write docs/performance.md from the results of benchmarks: every table as it was printed, nothing typed by hand.

python -m benchmark.document results/*.json --output docs/performance.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.record import machine_text, read

HEAD = """# Performance

Written by `python -m benchmark.document` from the results in benchmark/results; do not edit it. Every figure is of the
machine that is named with it. The file of each command says how it measures. The roofline is the least time that the
machine needs for the networks' operations. What was renamed since a result was written has its name of today.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "results", type=Path, nargs="+", help="what the benchmarks' --json wrote, in the order of the page"
    )
    parser.add_argument("--output", type=Path, required=True, help="for example docs/performance.md")
    options = parser.parse_args()
    try:
        text = document([read(path) for path in options.results])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.output.write_text(text, encoding="utf-8")
    return 0


def document(results: Sequence[dict[str, Any]]) -> str:
    """The page: a section a result, with its command, machine, date and commit."""
    parts = [HEAD]
    for one in results:
        lines = [
            f"## {one['title']}",
            "",
            "```",
            one["command"],
            "```",
            "",
            f"{one['date']}, commit {one['commit']}; {machine_text(one['machine'])}",
            "",
            *one["printed"],
        ]
        parts.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
