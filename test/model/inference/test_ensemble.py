import math
import threading

import pytest
import torch
from monai.inferers import sliding_window_inference
from msgspec.structs import replace
from torch import nn

from model.bundle.format import Manifest
from model.bundle.manifest import load_bundle
from model.bundle.settings import Network, Part, Window
from model.errors import CaseError, WeightsError
from model.inference.device import Device, choose_device
from model.inference.ensemble import ladder, most_windows, rehearse, vote
from model.inference.sliding import OUTSIDE
from model.networks.unet import build


class Constant(nn.Module):
    """Logits (0, difference) everywhere; counts its windows and may run out of memory."""

    def __init__(self, difference: float, fail: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self.difference, self.fails, self.error, self.calls = difference, fail, error, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.fails:
            self.fails -= 1
            raise self.error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        lesion = torch.full_like(image[:, :1], self.difference)
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return load_bundle(tiny_bundle).manifest


def run(networks: list[tuple[float, nn.Module]], manifest: Manifest, device: Device, batch: int = 1):
    part = manifest.part(manifest.members[0])
    voters = [(weight, lambda network=network: network, part) for weight, network in networks]
    return vote(lambda _: torch.rand(2, 40, 20, 20), voters, manifest, device, batch)


def test_it_is_the_weighted_mean_of_logit_differences(manifest, cpu) -> None:
    said = run([(2, Constant(3.0)), (1, Constant(-1.0)), (1, Constant(0.5))], manifest, cpu)
    torch.testing.assert_close(said.margin, torch.full((40, 20, 20), (2 * 3 - 1 + 0.5) / 4))


def test_probabilities_are_averaged_if_the_bundle_says_so(manifest, cpu) -> None:
    asked = replace(manifest, combine="probabilities")
    networks = [(1, Constant(4.0)), (2, Constant(-1.5))]
    expected = (1 / (1 + math.exp(-4)) + 2 / (1 + math.exp(1.5))) / 3 - 0.5
    torch.testing.assert_close(run(networks, asked, cpu).margin, torch.full((40, 20, 20), expected))
    assert expected < 0 < (4 - 2 * 1.5) / 3  # the two ways disagree here: the sign tells them apart
    assert (run(networks, manifest, cpu).margin > 0).all()


def test_a_member_of_weight_two_is_run_once(manifest, cpu) -> None:
    network = Constant(1.0)
    said = run([(2, network)], manifest, cpu)
    assert network.calls == said.windows == 2  # 40 voxels in windows of 32, stepping by 16: two


def test_a_tie_is_background(manifest, cpu) -> None:
    assert not (run([(1, Constant(1.0)), (1, Constant(-1.0))], manifest, cpu).margin > 0).any()


def test_progress_counts_all_windows_of_all_voters(manifest, cpu) -> None:
    told = []
    part = manifest.part(manifest.members[0])
    voters = [(1.0, lambda: Constant(1.0), part), (1.0, lambda: Constant(2.0), part)]
    vote(lambda _: torch.rand(2, 40, 20, 20), voters, manifest, cpu, 1, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_ladder_of_a_gpu_has_four_rungs_and_of_the_cpu_two() -> None:
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    assert [(r.device.type, r.batch, r.sums_on.type) for r in ladder(gpu, 2)] == [
        ("cuda", 2, "cuda"),
        ("cuda", 1, "cuda"),
        ("cuda", 1, "cpu"),
        ("cpu", 1, "cpu"),
    ]
    host = Device(torch_device=torch.device("cpu"), precision=torch.float32, name="")
    assert [r.batch for r in ladder(host, 2)] == [2, 1]


def test_out_of_memory_goes_down_one_rung_and_says_so(manifest, cpu) -> None:
    said = run([(1, Constant(1.0, fail=1)), (1, Constant(2.0))], manifest, cpu, batch=2)
    assert said.rung.batch == 1 and "memory ran out" in said.warnings[0]
    torch.testing.assert_close(said.margin, torch.full((40, 20, 20), 1.5))


def test_the_host_allocator_running_out_counts_as_out_of_memory(manifest, cpu) -> None:
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert run([(1, Constant(1.0, fail=1, error=error))], manifest, cpu, batch=2).rung.batch == 1


def test_no_memory_on_the_last_rung_is_an_error_of_the_case(manifest, cpu) -> None:
    with pytest.raises(CaseError, match="does not fit into memory"):
        run([(1, Constant(1.0, fail=2))], manifest, cpu, batch=2)


def test_another_runtime_error_is_not_taken_for_out_of_memory(manifest, cpu) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run([(1, Constant(1.0, fail=1, error=RuntimeError("shapes do not fit")))], manifest, cpu, batch=2)


def test_a_bare_memory_error_goes_down_the_ladder_too(manifest, cpu) -> None:
    assert run([(1, Constant(1.0, fail=1, error=MemoryError()))], manifest, cpu, batch=2).rung.batch == 1


def test_logits_that_are_not_finite_are_an_error_and_never_a_mask(manifest, cpu) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(WeightsError, match="NaN or infinite logits"):
            run([(1, Constant(value))], manifest, cpu)


def test_an_overflow_in_reduced_precision_is_run_again_in_float32(manifest) -> None:
    reduced = Device(torch_device=torch.device("cpu"), precision=torch.bfloat16, name="")

    class Overflows(Constant):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.difference = float("inf") if torch.is_autocast_enabled("cpu") else 2.0
            return super().forward(image)

    said = run([(1, Overflows(0.0))], manifest, reduced)
    assert (said.margin == 2).all() and "run again in float32" in said.warnings[0]


def test_a_window_that_shrinks_gives_what_monai_gives_with_the_smaller_window(manifest, cpu) -> None:
    """A volume of 26 x 41 x 9 voxels and a window of 32^3: the network, of three stages, sees 28 x 32 x 12."""
    torch.manual_seed(0)
    part = manifest.part(manifest.members[0])
    part = replace(part, window=replace(part.window, size=(32, 32, 32), shrink=True))
    network, image = build(part.network).eval(), torch.rand(2, 26, 41, 9)
    said = vote(lambda _: image, [(1.0, lambda: network, part)], manifest, cpu, 2)
    with torch.no_grad():
        logits = sliding_window_inference(image[None], (28, 32, 12), 1, network, overlap=part.window.overlap)[0]
    torch.testing.assert_close(said.margin, logits[1] - logits[0], rtol=1e-4, atol=1e-5)
    assert said.windows == 2 and said.margin.shape == (26, 41, 9)


def test_windows_without_bright_pet_are_not_run_and_counted(manifest, cpu) -> None:
    """40 x 32 x 70 voxels in windows of 32^3 that step by 16: two along x, one along y, four along z, at 0, 16, 32, 38.
    A voxel of SUV 3 at (39, 9, 20) lies in the second window of x and the first two of z.
    """
    image = torch.zeros(2, 40, 32, 70)
    image[1, 39, 9, 20] = 3.0 / manifest.intensity.suv_top
    part = manifest.part(manifest.members[0])
    for level, run_ in ((2.9, 2), (3.1, 0), (None, 8)):
        network, told = Constant(1.5), []
        asked = replace(manifest, skip_suv=level)
        voters = [(1.0, lambda network=network: network, part)]
        said = vote(lambda _: image, voters, asked, cpu, 1, lambda done, total, told=told: told.append((done, total)))
        assert (said.windows, said.skipped, network.calls, len(told)) == (run_, 8 - run_, run_, run_)
        expected = torch.full((40, 32, 70), 1.5 if level is None else OUTSIDE)
        if run_ == 2:
            expected[8:, :, :48] = 1.5
        torch.testing.assert_close(said.margin, expected)


def test_the_next_voters_weights_are_asked_for_before_this_one_ends(manifest, cpu) -> None:
    asked = [threading.Event() for _ in range(3)]

    class Waits(Constant):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert asked[1].wait(30), "the second network is loaded while the first runs"
            return super().forward(image)

    def load(number: int) -> nn.Module:
        asked[number].set()
        return Waits(1.0)

    part = manifest.part(manifest.members[0])
    voters = [(1.0, lambda number=number: load(number), part) for number in range(3)]
    vote(lambda _: torch.rand(2, 20, 20, 20), voters, manifest, cpu)
    assert asked[2].is_set()


def test_a_gpu_takes_as_many_windows_as_its_free_memory_holds(manifest, monkeypatch) -> None:
    """Widths 2, 2, 4, middle fusion: 4 channels of 32^3 in half precision are 256 KiB, and a window five times that; a
    study of 64^3 is 8 MiB in eight float32 values.
    """
    part = manifest.part(manifest.members[0])
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    window, study = 5 * (4 * 32**3 * 2), 8 * 4 * 64**3
    for windows, expected in ((0.5, 1), (1.1, 1), (3.9, 2), (4.1, 4), (1000, 16)):
        monkeypatch.setattr("model.inference.ensemble.free_bytes", lambda n=windows: (study + n * window) / 0.8)
        assert most_windows(gpu, [part], (64, 64, 64)) == expected


def test_one_window_at_a_time_on_a_cpu_and_two_of_a_network_of_unknown_memory(manifest, cpu) -> None:
    part = manifest.part(manifest.members[0])
    swin = replace(part, network=Network(fusion="swin_unetr", widths=(12,)), window=Window(size=(64, 64, 64)))
    slices = Part(
        network=Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4)),
        intensity=part.intensity,
        window=Window(size=(64, 64, 1)),
    )
    for parts, windows in (([part], 1), ([part, swin], 2), ([slices], 2), ([slices, part], 1)):
        assert most_windows(cpu, parts, (64, 64, 64)) == windows


def test_disagreement_is_the_weighted_standard_deviation_of_the_probabilities(manifest, cpu) -> None:
    part = manifest.part(manifest.members[0])
    networks = [(2.0, Constant(3.0)), (1.0, Constant(-1.0)), (1.0, Constant(0.5))]
    voters = [(weight, lambda network=network: network, part) for weight, network in networks]
    said = vote(lambda _: torch.rand(2, 40, 20, 20), voters, manifest, cpu, 1, with_disagreement=True)
    chances = [1 / (1 + math.exp(-d)) for d in (3.0, 3.0, -1.0, 0.5)]  # weight 2 counts twice
    mean = sum(chances) / 4
    expected = math.sqrt(sum((p - mean) ** 2 for p in chances) / 4)
    torch.testing.assert_close(said.disagreement, torch.full((40, 20, 20), expected))
    assert run(networks, manifest, cpu).disagreement is None


def test_on_a_cpu_nothing_is_rehearsed(manifest, cpu, monkeypatch) -> None:
    monkeypatch.setattr("model.inference.ensemble.skeleton", lambda network: pytest.fail("a network was built"))
    rehearse(manifest, cpu)


def test_what_is_rehearsed_is_the_study_s_window_and_no_memory_is_no_error(manifest, monkeypatch) -> None:
    gpu = Device(torch_device=torch.device("cuda"), precision=torch.float16, name="a GPU")
    shapes, freed = [], []
    monkeypatch.setattr("model.inference.ensemble.most_windows", lambda device, parts, shape: 3)
    monkeypatch.setattr("model.inference.ensemble.torch.zeros", lambda *shape, device: torch.empty(*shape))
    monkeypatch.setattr("model.inference.ensemble.slabs.prepared", lambda network, device, precision: network)
    monkeypatch.setattr(
        "model.inference.ensemble.slabs.forward", lambda network, image: shapes.append(tuple(image.shape))
    )
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: freed.append(True))
    rehearse(manifest, gpu)
    assert shapes == [(3, 2, *manifest.window.size)] and not freed

    def full(network: nn.Module, image: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("model.inference.ensemble.slabs.forward", full)
    rehearse(manifest, gpu)
    assert freed


@pytest.mark.gpu
def test_a_gpu_rehearses_without_torch_s_compiler(manifest) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    rehearse(manifest, choose_device("cuda"))
    assert torch.cuda.max_memory_allocated() > 0
