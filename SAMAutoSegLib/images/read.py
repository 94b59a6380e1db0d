"""Read images and label maps: files that SimpleITK knows and DICOM folders."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images import nifti, segment_header
from SAMAutoSegLib.images.dicom_files import refuse_broken_links
from SAMAutoSegLib.images.dicom_geometry import require_even_stack
from SAMAutoSegLib.images.dicom_series import MODALITY, read_series, slice_tags
from SAMAutoSegLib.images.file_name import require_utf8
from SAMAutoSegLib.images.itk_error import reason_of
from SAMAutoSegLib.images.itk_path import plain_folder, plain_name, readable_by_itk
from SAMAutoSegLib.images.label_layers import LabelLayers
from SAMAutoSegLib.images.packed import GZIP, require_whole, unpack
from SAMAutoSegLib.images.segment_header import Segment
from SAMAutoSegLib.images.structure import HIGHEST_LABEL, Structure, structure_named
from SAMAutoSegLib.images.volume import Grid, Modality, Volume

_SUFFIXES = (".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".seg")


def read_image(path: str | Path) -> Volume:
    """Read a scalar image from a file or a folder with one DICOM series.

    A 2D image becomes a volume of one slice; a fourth axis of length 1 is dropped. Voxels keep
    their type (NIfTI and DICOM slopes are applied). `SAMAutoSegError` is raised for a missing,
    unreadable or truncated file, for colors or several channels, for a time series, for complex
    numbers, and for a folder without or with more than one DICOM series or with missing slices.
    """
    path = Path(path)
    image, modality = _read(path)
    return _scalar_volume(image, path, modality)


def read_labels(path: str | Path) -> tuple[Volume, list[Structure]]:
    """Read a label file as one label map: what `read_layers` gives, a later segment on top."""
    layers = read_layers(path)
    return layers.flattened()[0], layers.structures


def read_layers(path: str | Path) -> LabelLayers:
    """Read a label file: whole numbers, 0 for background, at most 65535.

    The structures come from the segment headers of a `.seg.nrrd` (names, colors, terminology);
    values without a header, and all values of other files, are named "label 3" after themselves.
    Slicer keeps segments that may overlap in layers: they are labeled 1, 2, 3, ... where two layers
    use the same value. Besides what `read_image` refuses, values that are negative, too large or
    not whole raise `SAMAutoSegError`.
    """
    path = Path(path)
    image, _ = _read(path)
    try:
        segments = segment_header.parse(
            {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
        )
    except ValueError as error:
        raise SAMAutoSegError(f"the segment header of {path} is damaged: {error}") from error
    if segments and image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0)
    else:
        array = _scalar_volume(image, path).array[None]
    array = _whole_numbers(array, path)
    if len(array) == 1:
        named = {segment.value for segment in segments}
        values = [int(value) for value in np.unique(array) if value and value not in named]
        segments += [Segment(structure_named(f"label {v}", v), 0, v) for v in values]
    segments = _numbered(segments, len(array), path)
    return LabelLayers(array, tuple(segments), _grid(image, path), _bare_name(path), path)


def _scalar_volume(image: sitk.Image, path: Path, modality: Modality | None = None) -> Volume:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise SAMAutoSegError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} values per voxel (a color image, "
            "a vector field or channels): expected one; convert it to gray or extract one channel"
        )
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise SAMAutoSegError(f"{path} holds complex numbers: expected real ones; use magnitudes")
    return Volume(array, _grid(image, path), _bare_name(path), path, modality)


def _read(path: Path) -> tuple[sitk.Image, Modality | None]:
    require_utf8(path)
    try:
        if not path.exists():
            raise SAMAutoSegError(f"{path} does not exist: check the path of the image")
        image, modality = _read_folder(path) if path.is_dir() else _read_file(path)
    except EOFError as error:
        raise SAMAutoSegError(
            f"{path} is cut off: it ends before its last voxel; get it anew"
        ) from error
    except zlib.error as error:
        raise SAMAutoSegError(
            f"{path} is damaged: its compressed voxels cannot be unpacked, or are not those of the "
            "checksum in the file; get it anew"
        ) from error
    except OSError as error:
        file = error.filename or path
        raise SAMAutoSegError(f"cannot read {file}: {error.strerror or error}") from error
    except RuntimeError as error:
        raise SAMAutoSegError(
            f"cannot read {path}: no image format that is known here, or a damaged file "
            f"({reason_of(error)})"
        ) from error
    known = next((one for one in get_args(Modality) if one == modality), None)
    return _three_dimensional(image, path), known


def _read_folder(path: Path) -> tuple[sitk.Image, str]:
    """An image and the modality of the DICOM series in a folder."""
    refuse_broken_links(path)
    with readable_by_itk(path) as plain:
        try:
            return read_series(plain)
        except SAMAutoSegError as error:
            raise SAMAutoSegError(str(error).replace(str(plain), str(path))) from error


def _read_file(path: Path) -> tuple[sitk.Image, str]:
    """An image and the modality that its file tells."""
    if nifti.is_cut_off(path):
        raise EOFError
    require_whole(path)
    image = _read_image(path)

    def told(tag: str) -> str:
        return image.GetMetaData(tag).strip() if image.HasMetaDataKey(tag) else ""

    require_even_stack([slice_tags(path, told)], path.parent)
    return image, told(MODALITY)


def _read_image(path: Path) -> sitk.Image:
    sibling = nifti.read_instead(path)
    if sibling is None:
        with readable_by_itk(path) as plain:
            return sitk.ReadImage(str(plain))
    with plain_folder() as folder:
        alone = folder / plain_name(sibling)
        with path.open("rb") as stream, alone.open("wb") as unpacked:
            start = stream.read(len(GZIP))
            stream.seek(0)
            if start == GZIP:
                unpack(stream, unpacked)
            else:  # ITK reads it as it is
                shutil.copyfileobj(stream, unpacked)
        return sitk.ReadImage(str(alone))


def _three_dimensional(image: sitk.Image, path: Path) -> sitk.Image:
    if image.GetDimension() == 2:
        return sitk.JoinSeries(image)
    if image.GetDimension() > 3:
        size = image.GetSize()
        if any(length > 1 for length in size[3:]):
            raise SAMAutoSegError(
                f"{path} has {len(size)} axes ({' x '.join(map(str, size))}), a time series or "
                "several volumes: expected 3; extract one volume"
            )
        image = sitk.Extract(image, [*size[:3], *[0] * (len(size) - 3)])
    return image


def _grid(image: sitk.Image, path: Path) -> Grid:
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    if not np.isfinite([*spacing, *origin, *direction]).all():
        raise SAMAutoSegError(
            f"{path} has the spacing {spacing}, the origin {origin} and the direction {direction}: "
            "expected finite numbers; correct its header"
        )
    return Grid(image.GetSize(), spacing, origin, np.array(direction).reshape(3, 3))


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """The same values as uint8 or uint16."""
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= HIGHEST_LABEL):
        raise SAMAutoSegError(
            f"{path} has values from {lowest} to {highest}: expected labels from 0 to "
            f"{HIGHEST_LABEL}; is it an image?"
        )
    labels = values.astype(np.uint8 if highest < 256 else np.uint16, order="C")
    if values.dtype.kind == "f" and not np.array_equal(labels, values):
        raise SAMAutoSegError(
            f"{path} has values that are no whole numbers: expected labels; is it an image, or a "
            "label map that was resampled with interpolation?"
        )
    return labels


def _numbered(segments: list[Segment], layers: int, path: Path) -> list[Segment]:
    """The segments with a label for each, renumbered where two have the same value."""
    for segment in segments:
        if not 0 <= segment.layer < layers:
            raise SAMAutoSegError(
                f"{path} is damaged: segment {segment.structure.name} is in layer {segment.layer} "
                f"of {layers}"
            )
    if len({segment.value for segment in segments}) == len(segments):
        return segments
    return [
        replace(segment, structure=replace(segment.structure, label=number))
        for number, segment in enumerate(segments, start=1)
    ]


def _bare_name(path: Path) -> str:
    name = path.name
    for suffix in (".gz", *_SUFFIXES):
        name = name.removesuffix(suffix)
    return name or path.resolve().name
