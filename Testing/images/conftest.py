from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.images.volume import Grid, Volume


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )


GRIDS = {
    "plain": Grid((7, 6, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)),
    "anisotropic": Grid((7, 6, 5), (0.7, 0.8, 5.0), (-12.5, 30.25, 1000.125), np.eye(3)),
    "oblique": Grid((7, 6, 5), (0.7, 0.8, 5.0), (-12.5, 30.25, -400.5), rotation(17.0)),
    "flipped": Grid((7, 6, 5), (0.7, 0.8, 5.0), (177.9, 11.3, 94.3), np.diag([-1.0, -1.0, 1.0])),
    "mirrored": Grid((7, 6, 5), (0.7, 0.8, 5.0), (5.0, 6.0, 7.0), np.diag([1.0, 1.0, -1.0])),
    "one slice": Grid((7, 6, 1), (0.7, 0.8, 5.0), (5.0, 6.0, 7.0), np.eye(3)),
    "permuted": Grid((7, 6, 5), (0.7, 0.8, 5.0), (5.0, 6.0, 7.0), np.eye(3)[[2, 0, 1]]),
}


@pytest.fixture(params=GRIDS)
def grid(request: pytest.FixtureRequest) -> Grid:
    return GRIDS[request.param]


@pytest.fixture
def plain_grid() -> Grid:
    return GRIDS["plain"]


@pytest.fixture
def anisotropic_grid() -> Grid:
    return GRIDS["anisotropic"]


@pytest.fixture
def volume() -> Volume:
    """Values that compress badly, so that a file can be cut anywhere."""
    values = np.random.default_rng(0).integers(-1000, 1000, (12, 20, 24), dtype=np.int16)
    grid = Grid((24, 20, 12), (0.7, 0.8, 5.0), (-12.5, 30.25, 100.0), rotation(17.0))
    return Volume(values, grid, "random")


@pytest.fixture
def write_series() -> Callable[..., None]:
    """Write a DICOM series into a folder, with one slice at each of the positions along z."""

    def write(
        folder: Path,
        positions: list[float],
        uid: str = "1.2.826.0.1.3680043.2.1125.1",
        description: str = "abdomen",
        modality: str = "CT",
        tilt: float = 0.0,
    ) -> None:
        folder.mkdir(exist_ok=True)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for number, z in enumerate(positions):
            array = np.full((6, 7), 10 * number - 50, dtype=np.int16)
            image = sitk.GetImageFromArray(array[None])
            image.SetSpacing((0.7, 0.8, 2.0))
            image.SetMetaData("0008|0060", modality)
            image.SetMetaData("0008|103e", description)
            image.SetMetaData("0020|000d", "1.2.826.0.1.3680043.2.1125.9")
            image.SetMetaData("0020|000e", uid)
            image.SetMetaData("0008|0018", f"{uid}.{number + 1}")
            image.SetMetaData("0020|0013", str(number + 1))
            image.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
            image.SetMetaData("0020|0032", f"-30\\{-20 + tilt * z}\\{z}")
            image.SetMetaData("0028|1052", "-50")
            image.SetMetaData("0028|1053", "1")
            writer.SetFileName(str(folder / f"{uid}.{number}.dcm"))
            writer.Execute(image)

    return write
