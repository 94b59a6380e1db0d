import pytest
import torch

from SAMAutoSegLib.device import as_precision, choose_device, choose_precision, is_out_of_memory
from SAMAutoSegLib.errors import SAMAutoSegError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_auto_takes_the_cpu_where_there_is_nothing_else(no_gpu: None) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_auto_takes_the_gpu(two_gpus: None) -> None:
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_absent_is_an_error(name: str, no_gpu: None) -> None:
    with pytest.raises(SAMAutoSegError, match=f"device '{name}'.*choose cpu or auto"):
        choose_device(name)


def test_a_gpu_number_too_high_is_an_error(two_gpus: None) -> None:
    with pytest.raises(SAMAutoSegError, match="this machine has cuda:0 to cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps:1", ""])
def test_an_unknown_device_lists_the_known_ones(name: str) -> None:
    with pytest.raises(SAMAutoSegError, match="expected auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize(
    ("capability", "precision"), [((8, 0), torch.bfloat16), ((7, 5), torch.float32)]
)
def test_a_gpu_computes_in_bfloat16_from_capability_8(
    capability: tuple[int, int], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision(torch.device("cuda:0")) == precision


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "precision"),
    [
        (True, True, torch.bfloat16),
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
        (False, False, torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_amx_or_avx512_bf16(
    amx: bool, avx512_bf16: bool, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    assert choose_precision(torch.device("cpu")) == precision


def test_a_torch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert choose_precision(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_what_runs_beside_a_backbone_computes_in_its_precision(precision: torch.dtype) -> None:
    with as_precision(precision, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == precision


def test_an_allocation_that_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert is_out_of_memory(MemoryError())


def test_other_errors_are_not_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not is_out_of_memory(failed.value)
    assert not is_out_of_memory(OSError("out of memory"))
