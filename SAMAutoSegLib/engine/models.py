"""The models that the engine keeps loaded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from SAMAutoSegLib.adapt.adapted_file import FORMAT, Adapted, load_adapted
from SAMAutoSegLib.device import choose_device
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone

_MOST_LOADED = 2

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A backbone, with the model that was learned on it unless it is a plain SAM.

    `key` names files, device and precision: another content of a file gives another key.
    """

    key: str
    backbone: Backbone
    adapted: Adapted | None = None


class LoadedModels:
    """Loads models and keeps the last ones, until their files change."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def get(
        self,
        source: str,
        *,
        base: str | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> Loaded:
        """The model of a file, or the backbone of a file or a catalogue name.

        Args:
            base: of an adapted model, see `load_adapted`.
            device: by default 'auto'.
            precision: 'float32' or 'bfloat16', by default what is faster.

        Raises:
            SAMAutoSegError: see `load_adapted` and `load_backbone`; a file that is gone.
        """
        target = choose_device(device or "auto")
        if precision is not None and precision not in PRECISIONS:
            raise SAMAutoSegError(f"precision {precision!r}: expected {' or '.join(PRECISIONS)}")
        number_type = PRECISIONS[precision] if precision else None
        parts = [_content(source), _content(base) if base else "", str(target), precision or ""]
        key = "|".join(parts)
        if key not in self._loaded:
            # Room first: two large models at once may be more than there is memory.
            while len(self._loaded) >= _MOST_LOADED:
                self._loaded.popitem(last=False)
            if is_adapted_file(source):
                adapted = load_adapted(source, base=base, device=target, precision=number_type)
                self._loaded[key] = Loaded(key, adapted.backbone, adapted)
            else:
                backbone = load_backbone(source, device=target, precision=number_type)
                self._loaded[key] = Loaded(key, backbone)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def forget(self) -> None:
        """Let go of all, where memory has run out."""
        self._loaded.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()


def is_adapted_file(path: str | Path) -> bool:
    """Whether a file says in its header that it is an adapted model."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _content(source: str) -> str:
    """Path, size and time of change of a file or of a catalogue entry's file."""
    path = Path(source)
    if not path.is_file() and (entry := catalog.find(source)) is not None:
        path = entry.local_path
        if not path.exists():
            raise SAMAutoSegError(
                f"the model {entry.title} is not on this computer yet: download it first"
            )
    try:
        facts = path.stat()
    except OSError as error:
        raise SAMAutoSegError(
            f"the model file {path} is not there ({error.strerror}): it was moved or deleted; "
            "choose another model"
        ) from error
    return f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"
