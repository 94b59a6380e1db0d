"""Points within a network's computation at which something else may be done first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def between_layers(look_up: Callable[[], None]) -> Iterator[None]:
    """Call `look_up` before every layer of whatever network computes meanwhile.

    It may use networks itself, the same ones too, or raise to end the computation. A large encoder
    takes seconds for a slice, one of its layers a few hundredths of one: so a click is not kept
    waiting. It is not called where autocast is on, which would hold for what it does as well.
    """
    busy = False

    def before_layer(module: nn.Module, inputs: object) -> None:
        nonlocal busy
        if busy or any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
            return
        busy = True
        try:
            with torch.inference_mode(False):
                look_up()
        finally:
            busy = False

    handle = register_module_forward_pre_hook(before_layer)
    try:
        yield
    finally:
        handle.remove()
