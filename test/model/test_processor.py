from pathlib import Path

import pytest

from model import processor
from model.processor import bfloat16_in, has_bfloat16

# Lines as Linux writes them, shortened: AMD EPYC 9654 (Zen 4), Xeon Platinum 8480 (AMX), Xeon Gold 6230 (AVX512 without
# bfloat16), AMD EPYC 7763 (AVX2), and a Neoverse V1, whose line is called Features.
ZEN4 = "model name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16 vaes\n"
AMX = "model name\t: Xeon 8480+\nflags\t\t: fpu avx2 avx512f amx_bf16 amx_tile amx_int8\n"
CASCADE_LAKE = "model name\t: Xeon Gold 6230\nflags\t\t: fpu avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni\n"
ZEN3 = "model name\t: AMD EPYC 7763\nflags\t\t: fpu avx avx2 fma vaes\n"
NEOVERSE = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n"
IN_A_NAME = "model name\t: avx512_bf16\nbugs\t\t: amx_bf16\nvmx flags\t: avx512_bf16\n" + ZEN3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ZEN4, True),
        (AMX, True),
        (CASCADE_LAKE, False),
        (ZEN3, False),
        (NEOVERSE, False),
        (IN_A_NAME, False),
        ("", False),
        (ZEN4 + "\n" + ZEN4, True),
        (ZEN4 + "\n" + ZEN3, False),
    ],
)
def test_the_flags_of_every_processor_count_and_nothing_else(text: str, expected: bool) -> None:
    assert bfloat16_in(text) == expected


@pytest.fixture
def zen4(tmp_path: Path, monkeypatch) -> Path:
    """A machine whose /proc/cpuinfo is a Zen 4's; its file."""
    path = tmp_path / "cpuinfo"
    path.write_text(ZEN4)
    monkeypatch.setattr(processor, "CPUINFO", path)
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    for name in processor.ISA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return path


def test_a_processor_with_the_flag_has_bfloat16(zen4: Path) -> None:
    assert has_bfloat16()


def test_without_proc_cpuinfo_or_on_another_architecture_it_has_not(zen4: Path, monkeypatch) -> None:
    with monkeypatch.context() as on_arm:
        on_arm.setattr(processor.platform, "machine", lambda: "aarch64")
        assert not has_bfloat16()
    zen4.unlink()
    assert not has_bfloat16()


@pytest.mark.parametrize("name", processor.ISA_VARIABLES)
@pytest.mark.parametrize(
    ("isa", "expected"),
    [("avx2", False), ("AVX512_CORE", False), ("AVX512_CORE_VNNI", False), ("AVX512_CORE_BF16", True), ("ALL", True)],
)
def test_onednn_may_be_told_to_leave_it_alone(name: str, isa: str, expected: bool, zen4: Path, monkeypatch) -> None:
    monkeypatch.setenv(name, isa)
    assert has_bfloat16() == expected
