import pytest
import torch

from model.errors import CaseError, WeightsError
from model.inference.device import Device
from model.inference.ladder import Ladder, finish_on_ladder, ladder_of, run_on_ladder

GPU = Device(
    torch_device=torch.device("cuda"),
    precision=torch.float16,
    name="a GPU",
    wider=(torch.bfloat16, torch.float32),
)
MARGIN = torch.full((2, 2, 2), 1.5)


class Work:
    """A margin that fails call by call as planned; notes where it ran and in which precision."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes, self.runs, self.freed = list(outcomes), [], 0

    def __call__(self, rung, device) -> torch.Tensor:
        self.runs.append((device.torch_device.type, rung.windows, rung.sums_on.type, str(device.precision)[6:]))
        outcome = self.outcomes.pop(0) if self.outcomes else MARGIN
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def free(self) -> None:
        self.freed += 1


def run(work: Work, device: Device, windows: int = 2) -> Ladder:
    ladder = ladder_of(device, windows, (2, 2, 2))
    torch.testing.assert_close(run_on_ladder(work, ladder, device, "network 1 of 'eoa'", work.free), MARGIN)
    return ladder


def test_the_ladder_of_a_gpu_has_four_rungs_and_of_the_cpu_two(cpu) -> None:
    rungs = ladder_of(GPU, 2, (2, 2, 2)).rungs
    assert [(one.device.type, one.windows, one.slices, one.sums_on.type) for one in rungs] == [
        ("cuda", 2, 8, "cuda"),
        ("cuda", 1, 1, "cuda"),
        ("cuda", 1, 1, "cpu"),
        ("cpu", 1, 1, "cpu"),
    ]
    assert [one.windows for one in ladder_of(cpu, 2, (2, 2, 2)).rungs] == [2, 1]
    assert len(ladder_of(cpu, 1, (2, 2, 2)).rungs) == 1


@pytest.mark.slow
def test_whenever_memory_runs_out_the_next_rung_is_tried(cpu) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    work = Work(full, full, full)
    ladder = run(work, GPU)
    assert work.runs == [
        ("cuda", 2, "cuda", "float16"),
        ("cuda", 1, "cuda", "float16"),
        ("cuda", 1, "cpu", "float16"),
        ("cpu", 1, "cpu", "float32"),
    ]
    assert work.freed == len(ladder.warnings) == 3
    assert ladder.warnings[0] == (
        "memory ran out at cuda, 2 windows at a time, sums on cuda; went on at cuda, 1 window at a time, sums on cuda"
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_the_host_running_out_of_memory_is_a_step_down_too(error: Exception, cpu) -> None:
    assert run(Work(error), cpu).rung.windows == 1


def test_no_memory_on_the_last_rung_is_an_error_of_the_case(cpu) -> None:
    with pytest.raises(CaseError, match=r"\(2, 2, 2\) voxels does not fit into memory even at cpu, 1 window"):
        run(Work(MemoryError(), MemoryError()), cpu)


def test_another_runtime_error_is_not_taken_for_out_of_memory(cpu) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        run(Work(RuntimeError("shapes do not fit")), cpu)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_margin_that_is_not_finite_is_an_error_and_never_a_mask(value: float, cpu) -> None:
    margin = MARGIN.clone()
    margin[1, 0, 1] = value
    with pytest.raises(WeightsError, match="network 1 of 'eoa' gives NaN or infinite logits"):
        run(Work(margin), cpu)


def test_what_overflows_is_run_again_in_the_next_wider_precision() -> None:
    work = Work(MARGIN / 0, MARGIN / 0)
    ladder = run(work, GPU)
    assert [run[-1] for run in work.runs] == ["float16", "bfloat16", "float32"]
    assert not work.freed and [line.split()[-1] for line in ladder.warnings] == ["bfloat16", "float32"]


def test_what_finishes_a_margin_goes_on_a_rung_further_down_where_memory_runs_out() -> None:
    ladder, outcomes, freed = ladder_of(GPU, 2, (2, 2, 2)), [torch.OutOfMemoryError("CUDA out of memory"), None], []

    def finish(values: torch.Tensor) -> torch.Tensor:
        if error := outcomes.pop(0):
            raise error
        return values + 1

    found = finish_on_ladder(finish, MARGIN, ladder, lambda: freed.append(1))
    assert found.device.type == "cpu" and torch.equal(found, MARGIN + 1)
    assert ladder.rung.windows == 1 and len(ladder.warnings) == len(freed) == 1


def test_no_memory_to_finish_a_margin_on_the_last_rung_is_an_error_of_the_case(cpu) -> None:
    def finish(values: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(CaseError, match="does not fit into memory"):
        finish_on_ladder(finish, MARGIN, ladder_of(cpu, 1, (2, 2, 2)), lambda: None)


def test_a_cpu_goes_from_bfloat16_to_float32() -> None:
    work = Work(MARGIN / 0)
    cpu = Device(torch_device=torch.device("cpu"), precision=torch.bfloat16, name="a CPU")
    ladder = run(work, cpu)
    assert [run[-1] for run in work.runs] == ["bfloat16", "float32"]
    assert [line.split()[-1] for line in ladder.warnings] == ["float32"]
