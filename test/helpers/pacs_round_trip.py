"""Twenty studies from a PACS and back, killed at ten random moments: none lost, none sent twice.

    python test/helpers/pacs_round_trip.py FOLDER

The PACS is dcmtk's dcmqrscp on this machine (Debian: apt-get install dcmtk). It is given generated studies and asked to
move each to score.py --listen, again until that succeeds, as an archive's queue does. score.py is killed with SIGKILL
and started again. What came back is counted in dcmqrscp's own log.
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
from pathlib import Path
from threading import Thread

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parent.parent
sys.path[:0] = [str(ROOT), str(HELPERS.parent), str(HELPERS)]

from pacs_peer import ARCHIVE, LESIONS, free_port  # noqa: E402

CONFIG = """NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
lesions = ({lesions}, localhost, {listen})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{archive} {folder} RW (1000, 1024mb) ANY
AETable END
"""
CAME_IN = re.compile(
    r"INCOMING DIMSE MESSAGE =*\n(?:I: )?Message Type +: C-STORE RQ\n.*\n.*\n(?:I: )?Affected SOP Instance UID +: (\S+)"
)
RESULTS_A_STUDY = 3  # SEG, RTSTRUCT and picture, at least
LONGEST_S = 4 * 3600.0


class Archive:
    """dcmqrscp with the studies in it; `sent_to_us` are the studies that were moved, by their StudyInstanceUIDs."""

    def __init__(self, folder: Path, studies: list[Path], listen: int) -> None:
        self.port, self._folder = free_port(), folder
        shutil.rmtree(folder / "archive", ignore_errors=True)
        (folder / "archive").mkdir(parents=True)
        config = folder / "archive.cfg"
        fields = {"port": self.port, "lesions": LESIONS, "listen": listen, "archive": ARCHIVE}
        config.write_text(CONFIG.format(folder=folder / "archive", **fields))
        self._log = (folder / "archive.log").open("w")
        self._process = subprocess.Popen(
            ["dcmqrscp", "-v", "-c", str(config)], stdout=self._log, stderr=subprocess.STDOUT
        )
        time.sleep(1)
        for study in studies:
            command = ["storescu", "-aec", ARCHIVE, "+sd", "+r", "localhost", str(self.port), str(study)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self._before = set(self.came_in())

    def came_in(self) -> Counter[str]:
        """How often each object was received, by its SOPInstanceUID."""
        self._log.flush()
        return Counter(CAME_IN.findall((self._folder / "archive.log").read_text(errors="replace")))

    def results(self) -> Counter[str]:
        return Counter({uid: count for uid, count in self.came_in().items() if uid not in self._before})

    def move(self, uid: str) -> bool:
        """Send a study to score.py. Returns whether the PACS says that all of it arrived."""
        command = ["movescu", "-S", "-aet", LESIONS, "-aec", ARCHIVE, "-aem", LESIONS, "-k", "QueryRetrieveLevel=STUDY"]
        done = subprocess.run(
            [*command, "-v", "-k", f"StudyInstanceUID={uid}", "localhost", str(self.port)],
            capture_output=True,
            text=True,
        )
        return done.returncode == 0 and "Final Move Response (Success)" in done.stdout + done.stderr

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class Program:
    """score.py --listen, which is killed and started again."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self.log = command, log
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)

    def kill(self) -> None:
        assert self._process.poll() is None, f"it ended by itself; see {self.log}"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(120)


def progress(results: Path) -> dict[str, int]:
    """How many studies are scored, are sent, and are being sent; how many images came."""
    ledgers = [json.loads(path.read_text()) for path in (results / "sent").glob("[!.]*.json")]  # whole ones
    states = [{one["state"] for one in ledger["objects"]} for ledger in ledgers]
    journal = results / "journal.jsonl"
    return {
        "images": sum(1 for _ in (results / "incoming").rglob("*.dcm")),
        "scored": len(journal.read_text().splitlines()) if journal.is_file() else 0,
        "sent": sum(one <= {"sent", "committed"} for one in states),
        "begun": sum("begun" in one for one in states),
    }


def make_studies(folder: Path, count: int, small: bool) -> tuple[list[Path], list[str]]:
    """The studies' folders and StudyInstanceUIDs."""
    if small:
        from tiny_batches import dicom_studies

        dicom_studies(folder, count)
        return [folder], [f"1.2.3.1.{number + 1}" for number in range(count)]
    from make_dicom_studies import make

    return [make(folder, number) for number in range(count)], [f"1.2.3.1.{number + 1}" for number in range(count)]


def move_all(archive: Archive, uids: list[str]) -> None:
    """As the queue of a PACS: each study until it arrived, one after the other, several times round."""
    waiting = list(uids)
    while waiting:
        waiting = [uid for uid in waiting if not archive.move(uid)]
        time.sleep(1)


def run(options: argparse.Namespace) -> int:
    chance, results = random.Random(options.seed), options.folder / "results"
    studies, uids = make_studies(
        options.folder / ("small" if options.small else "studies"), options.count, options.small
    )
    shutil.rmtree(results, ignore_errors=True)
    (options.folder / "program.log").unlink(missing_ok=True)
    listen = free_port()
    archive = Archive(options.folder, studies, listen)
    words = ["--listen", listen, "--aet", LESIONS, "--send", f"localhost:{archive.port}:{ARCHIVE}", "--output", results]
    words += ["--quiet-seconds", options.quiet_seconds, *(["--weights", options.weights] if options.weights else [])]
    program = Program([sys.executable, str(ROOT / "score.py"), *map(str, words)], options.folder / "program.log")
    begun = time.monotonic()
    Thread(target=move_all, args=(archive, uids), daemon=True).start()
    try:
        for number in range(options.kills):
            goal = number * options.count // (options.kills + 1)  # so that kills are spread over the whole way
            wait_until(lambda goal=goal: progress(results)["sent"] >= goal, program)
            time.sleep(chance.uniform(0, options.spread))
            program.kill()
            print(f"kill {number + 1} after {time.monotonic() - begun:.0f} s: {progress(results)}", flush=True)
            program.start()
        wait_until(lambda: progress(results)["sent"] == options.count, program)
        time.sleep(2 * options.quiet_seconds)
        code = program.stop()
        return report(archive, results, options, code, time.monotonic() - begun)
    finally:
        program.kill() if program._process.poll() is None else None
        archive.close()


def wait_until(what, program: Program) -> None:
    end = time.monotonic() + LONGEST_S
    while not what():
        assert time.monotonic() < end, "it takes too long"
        assert program._process.poll() is None, f"it ended by itself; see {program.log}"
        time.sleep(0.05)


def report(archive: Archive, results: Path, options: argparse.Namespace, code: int, seconds: float) -> int:
    """Print what came back. Returns 0 if nothing was lost and nothing sent twice."""
    came = archive.results()
    written = [path for path in (results / "studies").glob("*/*.dcm")]
    twice = {uid: count for uid, count in came.items() if count > 1}
    printed = (options.folder / "program.log").read_text()
    scored = Counter(json.loads(line)["study"] for line in (results / "journal.jsonl").read_text().splitlines())
    named = re.findall(r"Doe|Jane|Smith", printed.replace(str(options.folder), ""))
    print(
        f"{options.count} studies, {options.kills} kills, {seconds:.0f} s: {len(scored)} scored "
        f"({sum(count > 1 for count in scored.values())} of them more than once), {len(written)} results written, "
        f"{len(came)} came back, {len(twice)} of them more than once; names in the log: {len(named)}; exit code {code}"
    )
    good = len(came) == len(written) >= RESULTS_A_STUDY * options.count and len(scored) == options.count
    return 0 if good and not twice and not named and code == 128 + signal.SIGTERM else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="where studies, archive, results and logs go")
    add("--count", type=int, default=20, help="how many studies (default: 20; cost: some 10 s and 40 MB each)")
    add("--kills", type=int, default=10, help="how often score.py is killed (default: 10; cost: a start of it each)")
    add("--small", action="store_true", help="studies of 20 x 18 x 9 voxels in place of phantoms (default: no)")
    add("--weights", help="as for score.py (default: weights/eoa)")
    add("--quiet-seconds", type=float, default=3, help="as for score.py (default: 3)")
    add("--spread", type=float, default=20, help="a kill comes up to so many seconds after its turn (default: 20)")
    add("--seed", type=int, default=1, help="of the moments (default: 1)")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
