"""Twenty studies from a PACS and back, killed at ten random moments: none lost, none sent twice, all scored.

    python test/helpers/pacs_round_trip.py FOLDER                          whole phantoms, the shipped weights
    python test/helpers/pacs_round_trip.py FOLDER --small --pacs orthanc   tiny ones: 6 to 14 minutes on two busy cores

The PACS is dcmtk's dcmqrscp or Orthanc on this machine (Debian: apt-get install dcmtk orthanc). It is given generated
studies and asked to move each to score.py --listen, again until that succeeds, as an archive's queue does. score.py is
killed with SIGKILL and started again. What came back is counted in the PACS's own log.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parent.parent
sys.path[:0] = [str(ROOT), str(HELPERS.parent), str(HELPERS)]

from pacs_peer import ARCHIVE, LESIONS, free_port  # noqa: E402
from real_pacs import KINDS, RealPacs  # noqa: E402

RESULTS_A_STUDY = 4  # SEG, RTSTRUCT, SR and picture
LONGEST_S = 4 * 3600.0
COMMITMENT_S = 60.0  # how long the PACS may take for its word on the last objects


class Program:
    """score.py --listen, which is killed and started again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self.log = command, log
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)

    def kill(self) -> None:
        self.check()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        assert self._process.poll() is None, f"it ended by itself; see {self.log}"

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(120)

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.wait()


def progress(results: Path) -> dict[str, int]:
    """How many images came, studies are scored and are sent, objects are being sent and are committed."""
    ledgers = [json.loads(path.read_text()) for path in (results / "sent").glob("[!.]*.json")]  # whole ones
    states = [[one["state"] for one in ledger["objects"]] for ledger in ledgers]
    journal = results / "journal.jsonl"
    return {
        "images": sum(1 for _ in (results / "incoming").rglob("[!.]*.dcm")),
        "scored": len(journal.read_text().splitlines()) if journal.is_file() else 0,
        "sent": sum(set(one) <= {"sent", "committed"} for one in states),
        "being sent": sum(one.count("begun") for one in states),
        "committed": sum(one.count("committed") for one in states),
    }


def make_studies(folder: Path, count: int, small: bool) -> list[Path]:
    """The folders of the studies, whose StudyInstanceUIDs are 1.2.3.1.1, 1.2.3.1.2 and so on."""
    if small:
        from tiny_batches import dicom_studies

        return sorted(dicom_studies(folder, count).iterdir())
    from make_dicom_studies import make

    return [make(folder, number) for number in range(count)]


def tiny_weights(folder: Path) -> Path:
    from random_bundles import random_bundle

    shutil.rmtree(folder, ignore_errors=True)
    return random_bundle(folder)


def move_all(pacs: RealPacs, count: int, ended: Event) -> None:
    """As the queue of a PACS: each study until it arrived, one after the other, several times round."""
    waiting = [f"1.2.3.1.{number + 1}" for number in range(count)]
    while waiting and not ended.is_set():
        waiting = [uid for uid in waiting if not pacs.move(uid)]
        ended.wait(1)


def kill_often(program: Program, results: Path, options: argparse.Namespace, images: int) -> None:
    """Kill and start it at random moments: while images come, while results are sent, and whenever."""
    chance, begun = random.Random(options.seed), time.monotonic()
    for number in range(options.kills):
        done = number * options.count // (options.kills + 1)  # studies, so that kills are spread over the whole way
        if number < options.kills // 3:
            least = (number + chance.random()) * images * 3 / options.kills
            wait_until(lambda least=least: progress(results)["images"] >= least, program)
        else:
            wait_until(lambda done=done: progress(results)["sent"] >= done, program)
            if number % 2:
                wait_until(lambda: progress(results)["being sent"], program, every_s=0.002)
            else:
                time.sleep(chance.uniform(0, options.spread))
        program.kill()
        print(f"kill {number + 1} after {time.monotonic() - begun:.0f} s: {progress(results)}", flush=True)
        program.start()


def wait_until(what: Callable[[], object], program: Program, every_s: float = 0.02) -> None:
    end = time.monotonic() + LONGEST_S
    while not what():
        assert time.monotonic() < end, "it takes too long"
        program.check()
        time.sleep(every_s)


def run(options: argparse.Namespace) -> int:
    results, listen, begun = options.folder / "results", free_port(), time.monotonic()
    studies = make_studies(options.folder / ("small" if options.small else "studies"), options.count, options.small)
    weights = options.weights or (tiny_weights(options.folder / "tiny") if options.small else ROOT / "weights" / "eoa")
    images = sum(1 for study in studies for _ in study.rglob("*.dcm"))
    shutil.rmtree(results, ignore_errors=True)
    (options.folder / "program.log").unlink(missing_ok=True)
    pacs = RealPacs(options.pacs, options.folder, studies, listen)
    words = ["--listen", listen, "--aet", LESIONS, "--send", f"localhost:{pacs.port}:{ARCHIVE}", "--output", results]
    words += ["--quiet-seconds", options.quiet_seconds, "--weights", weights]
    program = Program([sys.executable, str(ROOT / "score.py"), *map(str, words)], options.folder / "program.log")
    ended = Event()
    queue = Thread(target=move_all, args=(pacs, options.count, ended), daemon=True)
    queue.start()
    try:
        kill_often(program, results, options, images)
        wait_until(lambda: progress(results)["sent"] == options.count, program)
        wait_until(lambda: not queue.is_alive(), program)
        wait_for_commitment(pacs, results, options)
        code = program.stop()
        return report(pacs, results, options, code, time.monotonic() - begun)
    finally:
        ended.set()
        program.end()
        pacs.close()


def wait_for_commitment(pacs: RealPacs, results: Path, options: argparse.Namespace) -> None:
    """Until all is committed or the time is over; dcmqrscp offers none, and what would come twice needs a while."""
    end = time.monotonic() + (COMMITMENT_S if options.pacs == "orthanc" else 2 * options.quiet_seconds)
    while time.monotonic() < end and progress(results)["committed"] < len(pacs.results()):
        time.sleep(1)
    time.sleep(2 * options.quiet_seconds)


def report(pacs: RealPacs, results: Path, options: argparse.Namespace, code: int, seconds: float) -> int:
    """Print what came back. Returns 0 if nothing was lost and nothing sent twice."""
    came, committed = pacs.results(), progress(results)["committed"]
    written = sorted((results / "studies").glob("*/*.dcm"))
    lost = [path for path in written if not pacs.has(path)]
    twice = [uid for uid, count in came.items() if count > 1]
    printed = (options.folder / "program.log").read_text().replace(str(options.folder), "")
    scored = Counter(json.loads(line)["study"] for line in (results / "journal.jsonl").read_text().splitlines())
    named = re.findall(r"Doe|Jane|Smith|1\.2\.3\.", printed)
    print(
        f"{options.pacs}: {options.count} studies, {options.kills} kills, {seconds:.0f} s: {len(scored)} scored "
        f"({sum(count > 1 for count in scored.values())} of them more than once), {len(written)} results written, "
        f"{len(came)} came back, {len(twice)} of them more than once, {committed} committed, {len(lost)} not found by "
        f"C-FIND; names in the log: {len(named)}; exit code {code}"
    )
    good = len(came) == len(written) == RESULTS_A_STUDY * options.count and len(scored) == options.count and not lost
    committed_all = committed == len(written) or options.pacs == "dcmtk"
    return 0 if good and committed_all and not twice and not named and code == 128 + signal.SIGTERM else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="where studies, archive, results and logs go")
    add("--pacs", choices=KINDS, default=KINDS[0], help=f"the PACS (default: {KINDS[0]})")
    add("--count", type=int, default=20, help="how many studies (default: 20; cost: some 10 s and 40 MB each)")
    add("--kills", type=int, default=10, help="how often score.py is killed (default: 10; cost: a start of it each)")
    add("--small", action="store_true", help="studies of 20 x 18 x 9 voxels and a tiny bundle (default: phantoms)")
    add("--weights", help="as for score.py (default: weights/eoa; with --small a tiny bundle)")
    add("--quiet-seconds", type=float, default=3, help="as for score.py (default: 3)")
    add("--spread", type=float, default=20, help="some kills come up to so many seconds after their turn (default: 20)")
    add("--seed", type=int, default=1, help="of the moments (default: 1)")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
