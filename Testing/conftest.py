"""Small random SAMs, and the real `segment_anything` to compare with."""

import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from SAMAutoSegLib.images.volume import Grid
from SAMAutoSegLib.sam import architecture
from SAMAutoSegLib.sam.architecture import Parts, ViTShape, build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec

TINY = ViTShape(dim=32, depth=2, heads=2, global_blocks=(1,))
TINY_SIDE = 128


@pytest.fixture(autouse=True)
def no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Macs of workflows have an MPS device that can allocate nothing."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def tiny_vit_b(monkeypatch: pytest.MonkeyPatch) -> ViTShape:
    """For one test, 'vit_b' is two blocks of width 32: one windowed, one global."""
    monkeypatch.setitem(architecture.VIT_SHAPES, "vit_b", TINY)
    return TINY


@pytest.fixture
def tiny_parts(tiny_vit_b: ViTShape) -> Callable[..., Parts]:
    """Builds the networks of a tiny random ViT SAM; position tables are random too."""

    def build(side: int = TINY_SIDE, seed: int = 0) -> Parts:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = build_parts("vit_b", side)
            for name, values in parts.image_encoder.named_parameters():
                if "pos" in name or name.endswith("bias"):
                    torch.nn.init.normal_(values)
        return parts

    return build


@pytest.fixture
def tiny_backbone(tiny_parts: Callable[..., Parts]) -> Callable[..., Backbone]:
    """Builds a Backbone of a tiny random ViT SAM; the same seed gives the same weights."""

    def build(side: int = TINY_SIDE, seed: int = 0, **options: object) -> Backbone:
        spec = InputSpec(side=side)
        return Backbone(tiny_parts(side, seed), family="vit_b", spec=spec, **options)

    return build


@pytest.fixture
def tiny_file(tiny_parts: Callable[..., Parts], tmp_path: Path) -> Path:
    """A checkpoint file of a tiny random ViT SAM."""
    path = tmp_path / "checkpoint.pth"
    torch.save(state_dict(tiny_parts()), path)
    return path


def state_dict(parts: Parts) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor
        for part in ("image_encoder", "prompt_encoder", "mask_decoder")
        for name, tensor in getattr(parts, part).state_dict().items()
    }


@pytest.fixture
def segment_anything() -> types.ModuleType:
    """The real upstream package.

    It needs torchvision to be imported. Where that is installed without its compiled part, its
    operators get declared; where it is missing, a stand-in gives the one function the predictor
    calls, with the same Pillow call that torchvision makes.
    """
    if "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
                library.define(schema)
        _declared.append(library)
        try:
            importlib.import_module("torchvision")
        except ImportError:
            sys.modules.update(_torchvision_stand_in())
    if "segment_anything" not in sys.modules:
        # MONAI tries it too and, where torchvision is missing, leaves parts of it behind.
        for name in [name for name in sys.modules if name.startswith("segment_anything.")]:
            del sys.modules[name]
    return importlib.import_module("segment_anything")


_declared: list[torch.library.Library] = []  # undone when collected


def _torchvision_stand_in() -> dict[str, types.ModuleType]:
    names = (
        "torchvision",
        "torchvision.ops",
        "torchvision.ops.boxes",
        "torchvision.transforms",
        "torchvision.transforms.functional",
    )
    modules = {name: types.ModuleType(name) for name in names}
    boxes, functional = modules[names[2]], modules[names[4]]
    boxes.batched_nms = boxes.box_area = None
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
    return modules


@pytest.fixture
def upstream_sam(segment_anything: types.ModuleType) -> Callable[[Backbone], torch.nn.Module]:
    """Builds upstream's own `Sam` with a backbone's weights."""

    def build(backbone: Backbone) -> torch.nn.Module:
        parts = build_parts("vit_b", backbone.spec.side)
        modeling = segment_anything.modeling
        sam = modeling.Sam(parts.image_encoder, parts.prompt_encoder, parts.mask_decoder)
        for part in ("image_encoder", "prompt_encoder", "mask_decoder"):
            getattr(sam, part).load_state_dict(getattr(backbone, part).state_dict())
        return sam.eval()

    return build


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Random uint8 slices with some structure in them."""

    def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:height, :width]
        waves = np.sin(rows / 7) + np.cos(columns / 11) + rng.normal(0, 0.3, (height, width))
        return np.uint8(np.clip(waves * 50 + 128, 0, 255))

    return draw


@pytest.fixture
def write_layers() -> Callable[..., None]:
    """Writes a .seg.nrrd as Slicer does of overlapping segments: a component for each layer."""

    def write(
        path: Path,
        layers: list[np.ndarray],
        segments: list[tuple[str, object, int]],
        grid: Grid | None = None,
    ) -> None:
        vector = len(layers) > 1
        array = np.stack(layers, -1) if vector else layers[0]
        image = sitk.GetImageFromArray(array, isVector=vector)
        if grid is not None:
            image.SetSpacing(grid.spacing)
            image.SetOrigin(grid.origin)
            image.SetDirection(grid.direction.ravel().tolist())
        for number, (name, label, layer) in enumerate(segments):
            fields = {"ID": f"Segment_{number}", "Name": name, "Color": "0.5 0.25 1"}
            fields |= {"LabelValue": str(label), "Layer": str(layer)}
            for field, value in fields.items():
                image.SetMetaData(f"Segment{number}_{field}", value)
        sitk.WriteImage(image, str(path))

    return write
