"""What configs/inference.json runs: the networks, the studies, and the road from each study to its mask.

A MONAI bundle holds this file as scripts/lesions.py. Beside it lies `model`, the program's own package,
imported as it is.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
if (HERE / "model").is_dir():
    sys.path.insert(0, str(HERE))  # so that `model` is found

import torch  # noqa: E402
from monai.inferers import Inferer  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

import model as program  # noqa: E402

if not hasattr(program, "RESEARCH"):
    raise ImportError(
        f"another package named model is loaded, '{program.__file__}', in place of '{HERE / 'model'}'; run this bundle "
        "in a process of its own"
    )

from model.bundle.manifest import Bundle, load_bundle  # noqa: E402
from model.bundle.settings import Limits, Part  # noqa: E402
from model.dicom.reading import read_dicom  # noqa: E402
from model.errors import CaseError  # noqa: E402
from model.inference.device import choose_device, make_deterministic  # noqa: E402
from model.inference.options import SegmentOptions  # noqa: E402
from model.inference.outputs import lesion_margin, split_organs, values_of  # noqa: E402
from model.inference.segment import Result, segment  # noqa: E402
from model.networks.weights import Voter, load_now, voters  # noqa: E402
from model.results.run_summary import make_report, summary  # noqa: E402
from model.results.writing import check_output, write_mask  # noqa: E402
from model.stopwatch import Stopwatch  # noqa: E402
from model.study.reading import Case, read_case  # noqa: E402
from model.whole import Staging  # noqa: E402

LEAST_PROBABILITY = 1e-6  # of a mean of probabilities, so that its logit is finite


class LesionNetworks(nn.Module):
    """Every network of the bundle below `bundle_root`/models, loaded. A soup (DiWA) is one network.

    models: the different settings that its networks have, in the manifest's order; most bundles have one.
    """

    def __init__(self, bundle_root: str) -> None:
        super().__init__()
        self.bundle: Bundle = load_bundle(Path(bundle_root) / "models")
        self._voters = load_now(voters(self.bundle), torch.device("cpu"))
        self.networks = nn.ModuleList([voter.load() for voter in self._voters])
        self.models: list[Part] = []
        for voter in self._voters:
            self.models += [] if voter.part in self.models else [voter.part]

    def voters(self) -> list[Voter]:
        """The networks with their weights, as `segment` takes them."""
        loaded = zip(self._voters, self.networks, strict=True)
        return [replace(voter, load=partial(_as_it_is, network)) for voter, network in loaded]

    def forward(self, image: Tensor, model: int = 0) -> Tensor:
        """Logits (B, 2, X, Y, Z), background and lesion, of windows (B, C, X, Y, Z) in network units; slices have no Z.

        They are the mean of the networks that have the settings models[model].
        """
        part = self.models[model]
        chosen = [
            (voter.weight, network)
            for voter, network in zip(self._voters, self.networks, strict=True)
            if voter.part == part
        ]
        total = sum(weight for weight, _ in chosen)
        if self.bundle.manifest.combine == "probabilities":
            mean = sum(weight / total * _margins(network(image), part).sigmoid() for weight, network in chosen)
            margins = torch.logit(torch.as_tensor(mean), eps=LEAST_PROBABILITY)
        else:
            values = sum(weight / total * values_of(network(image), part.network) for weight, network in chosen)
            margins = _margins_of_values(torch.as_tensor(values), part)
        return torch.stack([torch.zeros_like(margins), margins], dim=1)


class StudyDataset(Dataset[Case]):
    """The studies to segment; each is read when its turn comes.

    pet and ct: the files of one study, PET in SUV and CT in HU (MHA, MHD, NRRD or NIfTI). Without them the studies are
    the folders in `dataset_dir`: one that holds images/pet and images/ct with a file each, or else DICOM, one PET and
    one CT series. A `dataset_dir` that itself holds images/ is one study. pet_alone: the networks see no CT; none is
    needed, and one that is there is not read. Raises CaseError if there is no study.
    """

    def __init__(
        self, dataset_dir: str, limits: Limits, pet: str | None = None, ct: str | None = None, pet_alone: bool = False
    ) -> None:
        self._limits, self._pet_alone = limits, pet_alone
        folder = Path(dataset_dir)
        if (pet is None) != (ct is None) and not (pet and pet_alone):
            raise CaseError("pet and ct are the two files of one study; give both, or neither and dataset_dir")
        files = tuple(Path(path) for path in (pet, ct) if path)
        self._studies = [files] if files else [(path,) for path in _study_folders(folder)]
        if not self._studies:
            raise CaseError(f"dataset_dir '{folder}' holds no folder; put each study into a folder of its own there")

    def __len__(self) -> int:
        return len(self._studies)

    def __getitem__(self, number: int) -> Case:
        """Read a study. Raises CaseError for everything that is wrong with it."""
        inputs = self._studies[number]
        if inputs[0].is_dir() and not (inputs[0] / "images").is_dir():
            return read_dicom(inputs[0], self._limits, name=inputs[0].name, pet_alone=self._pet_alone).case
        case = read_case(list(inputs), self._limits, pet_alone=self._pet_alone)
        return case if len(self) == 1 else replace(case, name=inputs[0].name)  # CT files of several may have one name


class StudyInferer(Inferer):  # type: ignore[misc]
    """The road from a study to its mask: resampling, crop, windows, mean, and back onto the PET's grid.

    device: as torch names it. precision: of the convolutions, auto, float32, bfloat16 or float16.
    """

    def __init__(self, device: str | torch.device = "cpu", precision: str = "auto") -> None:
        super().__init__()
        make_deterministic()
        self.device = choose_device(torch.device(device).type, precision)

    def __call__(self, inputs: Case, network: LesionNetworks, watch: Stopwatch | None = None) -> Result:
        """Segment one study with networks that are loaded. Raises CaseError."""
        options = SegmentOptions(bundle=network.bundle, device=self.device, voters=network.voters())
        return segment(inputs, options, watch)


class StudyEvaluator:
    """Segments every study and writes each mask as `output_dir`/NAME.mha: 0 and 1 on the PET's grid."""

    def __init__(
        self, dataset: StudyDataset, inferer: StudyInferer, network: LesionNetworks, output_dir: str = "eval"
    ) -> None:
        self.dataset, self.inferer, self.network, self.output_dir = dataset, inferer, network, Path(output_dir)

    def run(self) -> list[Path]:
        """Returns the masks' paths. Raises CaseError at a study that cannot be segmented; earlier masks stay."""
        check_output(self.output_dir)
        return list(self._masks())

    def _masks(self) -> Iterator[Path]:
        bundle, device = self.network.bundle, self.inferer.device
        for number in range(len(self.dataset)):
            watch = Stopwatch()
            case = self.dataset[number]
            result = self.inferer(case, self.network, watch)
            target = self.output_dir / f"{case.name}.mha"
            with Staging() as staging:
                write_mask(result.mask, case.pet.grid, target, staging)
                staging.commit()
            warnings = [*case.warnings, *([device.warning] if device.warning else []), *result.warnings]
            report = make_report(case, bundle, device, result, warnings, watch.seconds)
            print("\n".join([*(f"warning: {line}" for line in warnings), *summary(report, str(target))]), flush=True)
            yield target


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


def _study_folders(folder: Path) -> list[Path]:
    if (folder / "images").is_dir():
        return [folder]
    if not folder.is_dir():
        raise CaseError(f"dataset_dir '{folder}' is no folder; give one that holds a folder for each study")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _margins(logits: Tensor, part: Part) -> Tensor:
    """Logits of a network (B, K, ...) as margins (B, ...): above 0 is lesion."""
    return _margins_of_values(values_of(logits, part.network), part)


def _margins_of_values(values: Tensor, part: Part) -> Tensor:
    return torch.stack([lesion_margin(split_organs(one, part.network)[0], part.network) for one in values])
