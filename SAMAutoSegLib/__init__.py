"""Adapt Segment Anything to medical volumes from a handful of corrected slices.

What most programs need can be had from here: the functions, and the types that they take. It is
imported when it is first used, since the command line and Slicer read parts of this package before
they need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from SAMAutoSegLib.adapt.adapted_file import Adapted as Adapted
    from SAMAutoSegLib.adapt.adapted_file import load_adapted as load_adapted
    from SAMAutoSegLib.adapt.adapted_file import save_adapted as save_adapted
    from SAMAutoSegLib.errors import Cancelled as Cancelled
    from SAMAutoSegLib.errors import SAMAutoSegError as SAMAutoSegError
    from SAMAutoSegLib.evaluate.metrics import score_volume as score_volume
    from SAMAutoSegLib.images.intensity import Intensity as Intensity
    from SAMAutoSegLib.images.read import read_image as read_image
    from SAMAutoSegLib.images.read import read_labels as read_labels
    from SAMAutoSegLib.images.selection import Roi as Roi
    from SAMAutoSegLib.images.structure import Structure as Structure
    from SAMAutoSegLib.images.structure import structure_named as structure_named
    from SAMAutoSegLib.images.volume import Grid as Grid
    from SAMAutoSegLib.images.volume import Volume as Volume
    from SAMAutoSegLib.images.write import write_segmentation as write_segmentation
    from SAMAutoSegLib.methods.finetune import finetune as finetune
    from SAMAutoSegLib.methods.training_set import LabeledVolume as LabeledVolume
    from SAMAutoSegLib.sam.checkpoint import load_backbone as load_backbone
    from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache as EmbeddingCache
    from SAMAutoSegLib.segment.cleanup import CleanUp as CleanUp
    from SAMAutoSegLib.segment.corrected import CorrectedSlices as CorrectedSlices
    from SAMAutoSegLib.segment.refinement import Refinement as Refinement
    from SAMAutoSegLib.segment.volume import segment_volume as segment_volume

_MODULES = {
    "Adapted": "adapt.adapted_file",
    "Cancelled": "errors",
    "CleanUp": "segment.cleanup",
    "CorrectedSlices": "segment.corrected",
    "EmbeddingCache": "sam.embedding_cache",
    "Grid": "images.volume",
    "Intensity": "images.intensity",
    "LabeledVolume": "methods.training_set",
    "Refinement": "segment.refinement",
    "Roi": "images.selection",
    "SAMAutoSegError": "errors",
    "Structure": "images.structure",
    "Volume": "images.volume",
    "finetune": "methods.finetune",
    "load_adapted": "adapt.adapted_file",
    "load_backbone": "sam.checkpoint",
    "read_image": "images.read",
    "read_labels": "images.read",
    "save_adapted": "adapt.adapted_file",
    "score_volume": "evaluate.metrics",
    "segment_volume": "segment.volume",
    "structure_named": "images.structure",
    "write_segmentation": "images.write",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
