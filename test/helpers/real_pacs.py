"""Real archives on this machine, as the PACS of score.py --listen: dcmtk's dcmqrscp and Orthanc (packages of Debian).

Both write each message of DICOM that they get into their log: there what came is counted.
"""

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pydicom
from pacs_peer import ARCHIVE, LESIONS, free_port

DCMQRSCP = """NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
lesions = ({lesions}, localhost, {listen})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{archive} {folder} RW (500, 1024mb) ANY
AETable END
"""
CAME_IN = re.compile(
    r"INCOMING DIMSE MESSAGE =*\n(?:I: )?Message Type +: C-STORE RQ\n"
    r"(?:.*\n){2,3}?(?:I: )?Affected SOP Instance UID +: (\S+)"
)
KINDS = ("dcmtk", "orthanc")
START_S = 30.0


class RealPacs:
    """An archive with studies in it. kind: of KINDS. listen: the port of score.py, which it sends studies to."""

    def __init__(self, kind: str, folder: Path, studies: list[Path], listen: int) -> None:
        self.port, self._log = free_port(), folder / "archive.log"
        shutil.rmtree(folder / "archive", ignore_errors=True)
        (folder / "archive").mkdir(parents=True)
        start = {"dcmtk": dcmqrscp, "orthanc": orthanc}[kind]
        with self._log.open("w") as log:
            command = start(folder, self.port, listen)
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        self._wait()
        for study in studies:
            command = [
                "storescu",
                "-aet",
                LESIONS,
                "-aec",
                ARCHIVE,
                "+sd",
                "+r",
                "localhost",
                str(self.port),
                str(study),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self._before = set(self._came_in())

    def results(self) -> Counter[str]:
        """How often each object came that was no image of the studies, by its SOPInstanceUID."""
        return Counter({uid: count for uid, count in self._came_in().items() if uid not in self._before})

    def has(self, data: Path) -> bool:
        """Whether it finds the object in a DICOM file, by C-FIND."""
        command = ["findscu", "-S", "-aet", LESIONS, "-aec", ARCHIVE, "-k", "QueryRetrieveLevel=IMAGE"]
        header = pydicom.dcmread(data, stop_before_pixels=True)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            command += ["-k", f"{keyword}={header.get(keyword)}"]
        done = subprocess.run([*command, "-v", "localhost", str(self.port)], capture_output=True, text=True)
        return "Find Response: 1" in done.stdout + done.stderr

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

    def _came_in(self) -> Counter[str]:
        return Counter(CAME_IN.findall(self._log.read_text(errors="replace")))

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        while subprocess.run(["echoscu", "-aet", LESIONS, "-aec", ARCHIVE, "localhost", str(self.port)]).returncode:
            assert time.monotonic() < end and self._process.poll() is None, f"it did not start; see {self._log}"
            time.sleep(0.5)


def dcmqrscp(folder: Path, port: int, listen: int) -> list[str]:
    """dcmtk's archive, which offers no storage commitment: its command, for a configuration that is written."""
    fields = {"port": port, "lesions": LESIONS, "listen": listen, "archive": ARCHIVE, "folder": folder / "archive"}
    (folder / "archive.cfg").write_text(DCMQRSCP.format(**fields))
    return ["dcmqrscp", "-v", "-c", str(folder / "archive.cfg")]


def orthanc(folder: Path, port: int, listen: int) -> list[str]:
    """Orthanc, which offers storage commitment and answers over a connection of its own, likewise."""
    settings = {
        "Name": "archive",
        "StorageDirectory": str(folder / "archive"),
        "IndexDirectory": str(folder / "archive"),
        "HttpPort": free_port(),
        "RemoteAccessAllowed": False,
        "DicomPort": port,
        "DicomAet": ARCHIVE,
        "DicomCheckCalledAet": True,
        "DicomModalities": {"lesions": [LESIONS, "127.0.0.1", listen]},
        "Plugins": [],
    }
    (folder / "archive.json").write_text(json.dumps(settings))
    return [
        shutil.which("Orthanc", path="/usr/sbin:/usr/bin") or "Orthanc",
        "--trace-dicom",
        str(folder / "archive.json"),
    ]
