"""Write volumes and segmentations on exactly the grid that they were computed on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.images import nifti, segment_header
from SAMAutoSegLib.images.file_name import require_utf8
from SAMAutoSegLib.images.itk_error import reason_of
from SAMAutoSegLib.images.itk_path import writable_by_itk
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.volume import Grid, Volume

SEGMENTATION_SUFFIX = ".seg.nrrd"

# Formats of one file each: header and voxels of the others could not be replaced as one.
_SUFFIXES = (SEGMENTATION_SUFFIX, ".nrrd", ".nii.gz", ".nii", ".mha")


def write_segmentation(
    path: str | Path,
    labels: np.ndarray,
    grid: Grid,
    structures: list[Structure],
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write labels [K, J, I] (uint8 or uint16) in the format that the suffix of `path` names.

    `.seg.nrrd` is Slicer's segmentation format: it keeps the names, colors and terminology of the
    structures, and Slicer opens it as a segmentation. `.nrrd`, `.mha`, `.nii.gz` and `.nii` hold
    the bare label map. The provenance goes into the header as fields `SAMAutoSeg_<key>`, except
    in NIfTI, which has no place for it. Another suffix, or a file that cannot be written, raises
    `SAMAutoSegError`, and a file that was there before stays as it was.
    """
    if labels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"labels of type {labels.dtype}: expected uint8 or uint16")
    unnamed = set(np.unique(labels).tolist()) - {0} - {structure.label for structure in structures}
    if unnamed:
        raise ValueError(f"labels {sorted(unnamed)} belong to no structure")
    path = Path(path)
    fields = {f"SAMAutoSeg_{key}": value for key, value in (provenance or {}).items()}
    if path.name.endswith(SEGMENTATION_SUFFIX):
        fields |= segment_header.build(labels, grid, structures)
    _write(path, labels, grid, fields)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a volume with its voxel type, in the format that the suffix of `path` names.

    `.nrrd`, `.mha`, `.nii.gz` and `.nii` are known. Errors as for `write_segmentation`.
    """
    _write(Path(path), volume.array, volume.grid, {})


def require_known_format(path: str | Path) -> None:
    """Raise `SAMAutoSegError` unless `path` is a name that ITK takes, of a format that it writes.

    Nor beside a file whose voxels other programs would take for those of `path`.
    """
    require_utf8(Path(path))
    if not Path(path).name.endswith(_SUFFIXES):  # ITK knows some of them in lower case only
        raise SAMAutoSegError(
            f"cannot write {path}: unknown file type; name it {', '.join(_SUFFIXES)}, in lower case"
        )
    sibling = nifti.read_instead(Path(path))
    if sibling is not None:
        raise SAMAutoSegError(
            f"cannot write {path} beside {sibling.name}: programs that use ITK, such as 3D Slicer, "
            "would read the voxels of that file; choose another name"
        )


def _write(path: Path, array: np.ndarray, grid: Grid, fields: Mapping[str, str]) -> None:
    require_known_format(path)
    if array.shape != grid.size[::-1]:
        raise ValueError(f"array {array.shape} is not [K, J, I] of a {grid.size} grid")
    if nifti.is_nifti(path) and not np.allclose(
        grid.direction.T @ grid.direction, np.eye(3), atol=1e-3
    ):
        raise SAMAutoSegError(
            f"cannot write {path}: NIfTI cannot hold a grid whose axes are not at right angles; "
            "name it .seg.nrrd, .nrrd or .mha"
        )
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction.ravel().tolist())
    for key, value in fields.items():
        image.SetMetaData(key, value)
    try:
        with replace_when_complete(path) as temporary, writable_by_itk(temporary) as plain:
            sitk.WriteImage(image, str(plain), useCompression=True)
            # ITK writes to a full disk without an error.
            if not _holds(plain, array):
                raise SAMAutoSegError(
                    f"cannot write {path}: the disk took only a part of it; free some space or "
                    "choose another folder"
                )
    except RuntimeError as error:
        raise SAMAutoSegError(f"cannot write {path}: {reason_of(error)}") from error


def _holds(path: Path, array: np.ndarray) -> bool:
    """Whether a file can be read and holds these voxels."""
    try:
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        return False
    if array.dtype.kind == "f":  # of what is not finite ITK makes 0 when it reads NIfTI
        written, array = (np.where(np.isfinite(one), one, 0) for one in (written, array))
    return np.array_equal(written, array)
