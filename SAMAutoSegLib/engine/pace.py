"""How long a slice takes on this computer, for every backbone and device."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.engine.models import Loaded
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, user_cache_dir
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import Axis, SliceStack
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.segment.volume import segment_volume

# Fewer say little: the first one pays for what is set up once.
_SLICES_TO_TELL_FROM = 3

# The first slice also pays for what is set up once; a slow one is not measured twice.
_SLOW_SECONDS = 2.0


class Paces:
    """Seconds per slice, kept in a file of the user's cache folder.

    Measured at one slice where nothing is known yet, then by every run: the computer may have been
    busy with something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or user_cache_dir() / "pace.json"

    def seconds(self, volume: Volume, loaded: Loaded, axis: Axis | None = None) -> float:
        """About how long all slices of a volume take with a model, none of them encoded yet.

        Raises:
            SAMAutoSegError: the model is a plain SAM.
        """
        if loaded.adapted is None:
            raise SAMAutoSegError(
                f"{loaded.backbone.name} knows no structures yet: train it, or choose a trained "
                "model"
            )
        stack = SliceStack(volume.array, volume.grid, axis or loaded.adapted.card.plane)
        name = _name(loaded)
        known = self._read()
        if name not in known:
            known[name] = _measured(volume, loaded.adapted, stack)
            self._write(known)
        return known[name] * len(stack)

    def note(self, loaded: Loaded, seconds: float, slices: int) -> None:
        """Learn from a run that encoded so many slices."""
        if slices >= _SLICES_TO_TELL_FROM:
            self._write(self._read() | {_name(loaded): round(seconds / slices, 4)})

    def _write(self, known: dict[str, float]) -> None:
        # On a full disk it is measured again the next time.
        with suppress(SAMAutoSegError), replace_when_complete(self.path) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")

    def _read(self) -> dict[str, float]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # measured anew
        return known if isinstance(known, dict) else {}


def _measured(volume: Volume, adapted: Adapted, stack: SliceStack) -> float:
    middle = len(stack) // 2
    ranges = [(0, length) for length in volume.grid.size]
    ranges[stack.axis_index] = (middle, middle + 1)
    one = Roi(*ranges).crop(volume)
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        segment_volume(one, adapted, axis=stack.plane)
        seconds = time.monotonic() - started
        if seconds > _SLOW_SECONDS:
            break
    return round(seconds, 4)


def _name(loaded: Loaded) -> str:
    backbone = loaded.backbone
    device = str(backbone.device)
    if backbone.device.type == "cuda":
        device = torch.cuda.get_device_name(backbone.device)
    elif backbone.device.type == "cpu":
        device = f"cpu {torch.get_num_threads()}"
    parts = [backbone.sha256[:16], str(backbone.spec.side), device, str(backbone.precision)]
    return " ".join(parts)
