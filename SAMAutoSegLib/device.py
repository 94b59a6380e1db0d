"""Which device computes, and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from SAMAutoSegLib.errors import SAMAutoSegError


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.

    'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        SAMAutoSegError: unknown name, or a device that this machine or this torch lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdigit())):
        raise SAMAutoSegError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise SAMAutoSegError("device 'mps': this machine has none, choose cpu or auto")
        return torch.device("mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise SAMAutoSegError(
            f"device {name!r}: torch {torch.__version__} finds no CUDA GPU here, choose cpu or auto"
        )
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise SAMAutoSegError(f"device {name!r}: this machine has cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def choose_precision(device: torch.device) -> torch.dtype:
    """The type the image encoder computes in: bfloat16 where that is faster, else float32.

    CUDA from compute capability 8.0 has bfloat16 matrix units, x86 CPUs with AMX have them too, and
    those with AVX-512 BF16 (AMD from Zen 4 on) multiply pairs of such numbers at once; on other
    CPUs bfloat16 is emulated or no faster. The answer depends on the machine alone, not on its
    load, so the same command computes the same masks every time.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and _multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def as_precision(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 for a backbone that computes in it, else a context of no effect."""
    # Some releases of torch refuse a switched off autocast where a device has none, as MPS.
    autocast = precision == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()


def _multiplies_bfloat16() -> bool:
    # Not public in torch; where a release lacks them, float32 is always right.
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller piece of work, or another device, could do.

    Only CUDA has an error type for it; the allocators of MPS and of the CPU raise a plain
    RuntimeError, the CPU's with other words on each system.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
