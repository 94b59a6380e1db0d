"""The model classes of `segment-anything`, without what its package imports besides.

`import segment_anything` also imports the automatic mask generator, which needs torchvision, and
torchvision's compiled part fails where it was built for another torch ("operator torchvision::nms
does not exist", the commonest broken installation of this ecosystem). The `modeling` subpackage
alone needs only torch, so it is loaded alone, under a name of this package: nothing half
initialized called `segment_anything` or `torchvision` stays behind in `sys.modules`, and a program
that imports the real package later gets the real package. Where it is imported already, that copy
is used.
"""

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from SAMAutoSegLib.errors import SAMAutoSegError

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "TwoWayTransformer"]

PRIVATE_NAME = "SAMAutoSegLib.sam._segment_anything_modeling"


def _load_modeling() -> ModuleType:
    """The package `segment_anything.modeling`.

    Raises:
        SAMAutoSegError: segment-anything is not installed.
    """
    for name in ("segment_anything.modeling", PRIVATE_NAME):
        if name in sys.modules:
            return sys.modules[name]
    package = importlib.util.find_spec("segment_anything")
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        raise SAMAutoSegError(
            "the package segment-anything is not installed: pip install segment-anything==1.0"
        )
    folder = f"{folders[0]}/modeling"
    spec = importlib.util.spec_from_file_location(
        PRIVATE_NAME, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PRIVATE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in [name for name in sys.modules if name.startswith(PRIVATE_NAME)]:
            del sys.modules[name]
        raise
    return module


if TYPE_CHECKING:
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        TwoWayTransformer,
    )
else:
    _modeling = _load_modeling()
    ImageEncoderViT = _modeling.ImageEncoderViT
    MaskDecoder = _modeling.MaskDecoder
    PromptEncoder = _modeling.PromptEncoder
    TwoWayTransformer = _modeling.TwoWayTransformer
