"""What this machine computes with: devices, free memory, threads."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from SAMAutoSegLib.device import choose_device


def leave_a_core() -> int:
    """Let torch use one core fewer where there are more than two, so that windows stay quick.

    Returns how many threads it uses; fewer where the environment (OMP_NUM_THREADS) asks for it.
    """
    cores = _cores()
    torch.set_num_threads(min(torch.get_num_threads(), cores - 1 if cores > 2 else cores))
    return torch.get_num_threads()


def devices() -> dict[str, Any]:
    """The devices: `name`, `words` for the user, `free_bytes` (None if unknown), and the `chosen`.

    The first one is the CPU.
    """
    found = [{"name": "cpu", "words": f"CPU, {_cores()} cores", "free_bytes": _free_memory()}]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, _ = torch.cuda.mem_get_info(index)
            words = torch.cuda.get_device_name(index)
            found.append({"name": f"cuda:{index}", "words": words, "free_bytes": free})
    if torch.backends.mps.is_available():
        words = f"Apple GPU ({platform.machine()})"
        found.append({"name": "mps", "words": words, "free_bytes": _free_memory()})
    return {"devices": found, "chosen": str(choose_device("auto"))}


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int | None:
    """Free main memory in bytes, None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            facts = dict(line.split(":", 1) for line in stream)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
