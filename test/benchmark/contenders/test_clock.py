import subprocess
import sys
import time

from conftest import ROOT


def test_a_process_is_as_old_as_its_parent_has_waited_for_it() -> None:
    """It sleeps half a second, says its age, and ends: more than that, and not more than the parent waited."""
    code = "import time; from benchmark.contenders.clock import age_s; time.sleep(0.5); print(age_s())"
    begun = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert 0.48 < float(printed) < time.perf_counter() - begun + 0.02
