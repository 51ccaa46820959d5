#!/usr/bin/env bash
# DICOM in, DICOM SEG out, without network:
#   scripts/run.sh STUDIES RESULTS [OPTIONS of score.py]
# STUDIES holds the DICOM of one study or of many, in any folders.  RESULTS/studies/NAME/ then has seg.dcm, the mask, the
# lesion table and a picture of each study; report.html lists them.  The same command goes on after an interruption.
#   PYTHON  of an environment with src/requirements.txt; default: that of the image, /opt/lesions, or else python3
set -euo pipefail
[ $# -ge 2 ] || {
  echo "usage: scripts/run.sh STUDIES RESULTS [OPTIONS of score.py]" >&2
  exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=/opt/lesions/bin/python
[ -x "$python" ] || python=python3
exec "${PYTHON:-$python}" "$here/src/score.py" "$1" --output "$2" --weights "$here/weights" "${@:3}"
