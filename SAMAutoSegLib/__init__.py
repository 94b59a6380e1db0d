"""Adapt Segment Anything to medical volumes from a handful of corrected slices.

What most programs need can be had from here; it is imported when it is first used, since the
command line and Slicer read parts of this package before they need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import load_adapted as load_adapted
    from SAMAutoSegLib.adapt.adapted_file import save_adapted as save_adapted
    from SAMAutoSegLib.errors import SAMAutoSegError as SAMAutoSegError
    from SAMAutoSegLib.evaluate.metrics import score_volume as score_volume
    from SAMAutoSegLib.images.read import read_image as read_image
    from SAMAutoSegLib.images.read import read_labels as read_labels
    from SAMAutoSegLib.images.write import write_segmentation as write_segmentation
    from SAMAutoSegLib.methods.finetune import finetune as finetune
    from SAMAutoSegLib.methods.training_set import LabeledVolume as LabeledVolume
    from SAMAutoSegLib.sam.checkpoint import load_backbone as load_backbone
    from SAMAutoSegLib.segment.volume import segment_volume as segment_volume

_MODULES = {
    "LabeledVolume": "methods.training_set",
    "SAMAutoSegError": "errors",
    "finetune": "methods.finetune",
    "load_adapted": "adapt.adapted_file",
    "load_backbone": "sam.checkpoint",
    "read_image": "images.read",
    "read_labels": "images.read",
    "save_adapted": "adapt.adapted_file",
    "score_volume": "evaluate.metrics",
    "segment_volume": "segment.volume",
    "write_segmentation": "images.write",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
