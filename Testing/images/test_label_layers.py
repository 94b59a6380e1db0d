from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.label_layers import LabelLayers
from SAMAutoSegLib.images.read import read_layers
from SAMAutoSegLib.images.structure import standard_structures
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation


def part_of(grid: Grid, folder: Path, first: np.ndarray) -> LabelLayers:
    """A file of 3 x 4 x 2 voxels whose first one is voxel `first` of the grid."""
    origin = grid.ijk_to_lps @ [*first, 1]
    part = replace(grid, size=(3, 4, 2), origin=tuple(origin[:3].tolist()))
    array = np.zeros((2, 4, 3), np.uint8)
    array[0, 1, 2] = array[1, 3, 0] = 1
    write_segmentation(folder / "part.seg.nrrd", array, part, standard_structures(["liver"]))
    return read_layers(folder / "part.seg.nrrd")


def volume(grid: Grid) -> Volume:
    return Volume(np.zeros(grid.size[::-1]), grid, "ct")


def test_a_cropped_file_is_filled_up_to_the_image(grid: Grid, tmp_path: Path) -> None:
    grid = replace(grid, size=(7, 6, 5))
    placed = part_of(grid, tmp_path, np.array([2, 1, 1])).on_grid_of(volume(grid))
    labels, _ = placed.flattened()
    assert placed.grid is grid and labels.array.sum() == 2
    assert labels.array[1, 2, 4] == labels.array[2, 4, 2] == 1


@pytest.mark.parametrize("first", [(2.5, 1, 1), (5, 1, 1), (-1, 1, 1)])
def test_what_does_not_lie_on_the_image_s_voxels_is_refused(
    anisotropic_grid: Grid, tmp_path: Path, first: tuple[float, ...]
) -> None:
    part = part_of(anisotropic_grid, tmp_path, np.array(first))
    told = r"part.seg.nrrd is not on the grid of ct: size 3 x 4 x 2 against 7 x 6 x 5, origin"
    with pytest.raises(SAMAutoSegError, match=told):
        part.on_grid_of(volume(anisotropic_grid))


def test_overlapping_segments_keep_masks_of_their_own(
    tmp_path: Path, write_layers: Callable[..., None]
) -> None:
    organ, lesion = np.zeros((2, 5, 6, 7), np.uint8)
    organ[1:4, 1:5, 1:6], lesion[2, 2, 2:7] = 1, 1
    names = [("organ", 1, 0), ("lesion", 1, 1)]
    write_layers(tmp_path / "x.seg.nrrd", [organ, lesion], names)
    layers = read_layers(tmp_path / "x.seg.nrrd")
    assert np.array_equal(layers.mask(1), organ) and np.array_equal(layers.mask(2), lesion)
    assert not layers.mask(3).any()
    flat, lost = layers.flattened()
    assert lost == {1: 4} and np.count_nonzero(flat.array == 1) == organ.sum() - 4
    flat, lost = layers.flattened([1])
    assert lost == {} and np.array_equal(flat.array, organ)
