"""A bundle of weights as a model folder of MHub.ai's layout: DICOM in, DICOM SEG out, by score.py, without network.

scripts/run.sh runs it anywhere; config/, dockerfiles/ and utils/ are what MHub's own images are built of.
"""

import json
import shutil
from pathlib import Path

from model.bundle.manifest import Bundle
from training.packages.facts import AUTHORS, model_card
from training.packages.mhub_meta import meta_of
from training.packages.program import NOTICES, copy_program, copy_weights

OWN = Path("meta.json")  # by this a model folder is known
CARRIED = Path(__file__).resolve().parent / "in_mhub"
PLACES = {  # where each file of in_mhub lies in the folder
    "run.sh": "scripts",
    "default.yml": "config",
    "Dockerfile": "dockerfiles",
    "LesionRunner.py": "utils",
}
RUN = """Anywhere, with Python 3.11 to 3.13 and `pip install -r src/requirements.txt`:

```
scripts/run.sh STUDIES RESULTS
```

STUDIES holds the DICOM of one study or of many; {found} by their headers, and PET becomes SUV by them.
RESULTS/studies/NAME/seg.dcm is the DICOM SEG of each study; beside it are the mask, the lesion table and a picture, and
RESULTS/report.html lists all. What could not be scored is listed with its reason. Nothing uses the network. Options of
score.py may follow: `scripts/run.sh STUDIES RESULTS --help` lists them.

In MHub, this folder lies as models/{name} in a fork of MHubAI/models:

```
docker build --build-arg MHUB_MODELS_REPO=FORK::BRANCH -t {name} dockerfiles
docker run --rm --network none --gpus all -v INPUT:/app/data/input_data:ro -v OUTPUT:/app/data/output_data {name}
```

INPUT holds a folder for each study, with the series in {series}; OUTPUT gets {name}.seg.dcm of each. The image has not
been built by the authors of this folder: look at its first results. MHub's catalogue also wants mhub.toml, with the
address of a public test study, which you add."""

OF_CT = {  # in files of in_mhub: what a model that sees PET alone has instead
    '    @IO.Input("in_ct", "dicom:mod=ct", the="CT of the study")  # type: ignore[untyped-decorator]\n': "",
    "in_ct: InstanceData, ": "",
    '(("ct", in_ct), ("pt", in_pt))': '(("pt", in_pt),)',
    "a study's PET and CT": "a study's PET",
    " of a study with its CT": " of a study",
    "    - $studyID@instance/ct@dicom:mod=ct\n    - $studyID/pt": "    - $studyID@instance/pt",
    "PET/CT": "PET",
}


def without_ct(text: str) -> str:
    """A file of in_mhub for a model that sees PET alone."""
    for found, instead in OF_CT.items():
        text = text.replace(found, instead)
    return text


def write_mhub(bundle: Bundle, folder: Path, name: str, repository: str) -> None:
    """Fill a folder that is there and empty. name: that of the model. Raises OSError."""
    for file, place in PLACES.items():
        (folder / place).mkdir()
        text = (CARRIED / file).read_text(encoding="utf-8")
        text = text.replace("MODEL_NAME", name).replace("AUTHORS", AUTHORS)
        text = without_ct(text) if bundle.manifest.pet_alone else text
        (folder / place / file).write_text(text, encoding="utf-8")
    (folder / PLACES["run.sh"] / "run.sh").chmod(0o755)
    (folder / "utils" / "__init__.py").write_text("")
    copy_program(folder / "src")
    copy_weights(bundle, folder / "weights")
    for notice in NOTICES:
        shutil.copyfile(folder / "src" / notice, folder / notice)
    meta = meta_of(bundle, name, repository)
    (folder / OWN).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    series, found = ("pt", "PET is found") if bundle.manifest.pet_alone else ("ct and pt", "PET and CT are found")
    card = model_card(bundle.manifest, RUN.format(name=name, series=series, found=found))
    (folder / "README.md").write_text(card, encoding="utf-8")
