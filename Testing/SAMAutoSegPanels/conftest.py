"""What the panels decide, in plain Python: no Slicer, no Qt."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# Slicer puts the folder of a module on its path.
sys.path.insert(0, str(ROOT / "SAMAutoSeg"))


def add_volume(mrml: Any, name: str = "CT") -> Any:
    """A volume node of 6 x 5 x 8 voxels of 1 mm in a scene of slicer-core, all values different."""
    import numpy as np
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    volume = mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    image = vtk.vtkImageData()
    image.SetDimensions(6, 5, 8)
    image.GetPointData().SetScalars(numpy_to_vtk(np.arange(240, dtype=np.int16), deep=True))
    volume.SetAndObserveImageData(image)
    return volume


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small model file with a card, or a plain safetensors file."""

    def save(name: str, structures: tuple[str, ...] = ("liver",), **card: Any) -> Path:
        values = {
            "backbone": "lite-medsam",
            "backbone_sha256": "79d8",
            "plane": "axial",
            "method": "blo-sam",
            "structures": [
                {"label": n, "name": one, "color": [1, 0, 0], "terminology": ""}
                for n, one in enumerate(structures, start=1)
            ],
            "provenance": {
                "created": "2026-08-24T10:00:00+00:00",
                "held_out_dice": 0.91,
                "images": [{"slices": [3, 4, 9]}],
            },
            **card,
        }
        metadata = {"format": "SAMAutoSeg adapted model", "card": json.dumps(values)}
        header = json.dumps({"__metadata__": metadata}).encode()
        path = tmp_path / "models" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        return path

    return save


class Later:
    """Stands for the event loop: what is to be done later is done by `run`."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def __call__(self, do: Callable[[], object]) -> None:
        self.waiting.append(do)

    def run(self, steps: int = 10_000) -> None:
        while self.waiting and steps:
            self.waiting.pop(0)()
            steps -= 1


@pytest.fixture
def later() -> Later:
    return Later()
