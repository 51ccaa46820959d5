"""The comparing process, `python -m model.hospital.dates.worker FD`: it compares the pairs that its parent sends.

It talks as the scoring process does (`model.hospital.worker`), and needs no torch. A process of its own: a pair that
takes all memory, or a crash, ends this process alone.
"""

import json
import sys
import traceback
from typing import Any

from model.errors import shown, split_remedy
from model.hospital.job import PairJob, pair_job_from, setup_from
from model.hospital.names import redacted
from model.hospital.worker import listen, words_of


def main() -> int:
    lines, reply = listen()
    debug = setup_from(json.loads(lines.get())).debug
    reply({"state": "ready"})
    while True:
        job, _ = json.loads(lines.get())
        reply(answer(pair_job_from(job), debug))


def answer(job: PairJob, debug: bool = False) -> dict[str, Any]:
    """Compare a pair. An error becomes an answer too: a failure with its reason."""
    from model.hospital.dates.pair import compare_pair

    try:
        compare_pair(job)
        return {"state": "done"}
    except Exception as error:
        if debug:
            traceback.print_exc()
        whole = words_of(error)
        owner_first = sorted((job.first, job.second), key=lambda one: str(one.entry.source) not in whole)
        for one in () if job.first.options.named else owner_first:
            whole = redacted(whole, one.entry, one.root, one.name, one.edit_path)
        message, remedy = split_remedy(shown(whole))
        return {"state": "failed", "message": message, "remedy": remedy}


if __name__ == "__main__":
    sys.exit(main())
