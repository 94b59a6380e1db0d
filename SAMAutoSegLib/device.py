"""Which device computes, and in which precision."""

import functools
import time

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
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise SAMAutoSegError(f"device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise SAMAutoSegError("device 'mps': this machine has none, use --device cpu or auto")
        return torch.device("mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise SAMAutoSegError(
            f"device {name!r}: torch {torch.__version__} finds no CUDA GPU here, "
            "use --device cpu or auto"
        )
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise SAMAutoSegError(f"device {name!r}: this machine has cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def choose_precision(device: torch.device) -> torch.dtype:
    """The type the image encoder computes in: bfloat16 where that is faster, else float32.

    CUDA from compute capability 8.0 has bfloat16 matrix units. On a CPU it is measured once per
    process: with AMX units bfloat16 is several times faster, without them it is often slower.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if fast else torch.float32
    if device.type == "cpu" and _bfloat16_is_faster_on_cpu():
        return torch.bfloat16
    return torch.float32


@functools.cache
def _bfloat16_is_faster_on_cpu() -> bool:
    """Whether a matrix product of an encoder's size is at least 1.5 times faster in bfloat16."""
    if torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False

    def seconds(dtype: torch.dtype) -> float:
        tokens = torch.ones(1024, 384, dtype=dtype)
        layer = torch.nn.Linear(384, 1152, dtype=dtype)
        best = float("inf")
        with torch.inference_mode():
            for _ in range(4):  # the first one also packs the weights
                start = time.perf_counter()
                layer(tokens)
                best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.float32) > 1.5 * seconds(torch.bfloat16)
