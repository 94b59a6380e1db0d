"""Read images and label maps: files that SimpleITK knows and DICOM folders."""

from __future__ import annotations

import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images import nifti, segment_header
from SAMAutoSegLib.images.dicom_files import is_dicom_image
from SAMAutoSegLib.images.label_layers import LabelLayers
from SAMAutoSegLib.images.packed import GZIP, require_whole, unpack
from SAMAutoSegLib.images.segment_header import Segment
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Grid, Modality, Volume

_HIGHEST_LABEL = 65535

# Distances of DICOM slices that differ by more than this mean that one is missing.
_UNEVEN_RATIO = 1.05

_MOST_TILT_DEGREES = 0.5

_MODALITY = "0008|0060"
_SERIES_DESCRIPTION = "0008|103e"
_SERIES_NUMBER = "0020|0011"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_RESCALE = ("0028|1052", "0028|1053")  # intercept and slope

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
    return LabelLayers(array, tuple(segments), _grid(image), _bare_name(path), path)


def _scalar_volume(image: sitk.Image, path: Path, modality: Modality | None = None) -> Volume:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise SAMAutoSegError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} values per voxel (a color image, "
            "a vector field or channels): expected one; convert it to gray or extract one channel"
        )
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise SAMAutoSegError(f"{path} holds complex numbers: expected real ones; use magnitudes")
    return Volume(array, _grid(image), _bare_name(path), path, modality)


def _read(path: Path) -> tuple[sitk.Image, Modality | None]:
    if not path.exists():
        raise SAMAutoSegError(f"{path} does not exist: check the path of the image")
    if path.is_dir():
        return _read_series(path)
    try:
        if nifti.is_cut_off(path):
            raise EOFError
        require_whole(path)
        image = _read_image(path)
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
            f"({_reason(error)})"
        ) from error
    modality = image.GetMetaData(_MODALITY) if image.HasMetaDataKey(_MODALITY) else ""
    return _three_dimensional(image, path), _modality(modality)


def _read_image(path: Path) -> sitk.Image:
    sibling = nifti.read_instead(path)
    if sibling is None:
        return sitk.ReadImage(str(path))
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / sibling.name
        with path.open("rb") as stream, alone.open("wb") as unpacked:
            start = stream.read(len(GZIP))
            stream.seek(0)
            if start == GZIP:
                unpack(stream, unpacked)
            else:  # ITK reads it as it is
                shutil.copyfileobj(stream, unpacked)
        return sitk.ReadImage(str(alone))


def _read_series(folder: Path) -> tuple[sitk.Image, Modality | None]:
    reader = sitk.ImageSeriesReader()
    with _without_warnings():
        series = reader.GetGDCMSeriesIDs(str(folder))
    files = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    if not files:
        raise SAMAutoSegError(
            f"no DICOM image in the folder {folder}: give the folder that holds the files of one "
            "series (folders inside of it are not searched)"
        )
    if len(files) > 1:
        listed = "; ".join(
            f"{_series_name(names)} ({len(names)} files)" for names in files.values()
        )
        raise SAMAutoSegError(
            f"{folder} holds {len(files)} DICOM series: {listed}; put the files of one of them in "
            "a folder of its own"
        )
    names = files[series[0]]
    _refuse_damaged(folder, names)
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        with _without_warnings():
            image = reader.Execute()
            if any(len({_tag(reader, n, tag) for n in range(len(names))}) > 1 for tag in _RESCALE):
                # The type that fits the first slice need not hold the values of the others.
                reader.SetOutputPixelType(sitk.sitkFloat32)
                image = reader.Execute()
    except RuntimeError as error:
        raise SAMAutoSegError(
            f"cannot read the DICOM series in {folder}: {_reason(error)}"
        ) from error
    _check_positions(reader, len(names), folder)
    modality = _modality(_tag(reader, 0, _MODALITY))
    return _three_dimensional(image, folder), modality


def _refuse_damaged(folder: Path, names: Sequence[str]) -> None:
    """`SAMAutoSegError` if a DICOM file could not be read, so that it is in no series."""
    listed = {Path(name).name for name in names}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in listed and is_dicom_image(path):
            raise SAMAutoSegError(f"{path} is damaged or cut off: copy it again, or remove it")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep ITK from printing on its own what is said in an error anyway."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _series_name(names: tuple[str, ...]) -> str:
    header = sitk.ImageFileReader()
    header.SetFileName(names[0])
    header.ReadImageInformation()
    parts = [
        header.GetMetaData(tag).strip()
        for tag in (_MODALITY, _SERIES_NUMBER, _SERIES_DESCRIPTION)
        if header.HasMetaDataKey(tag)
    ]
    return " ".join(part for part in parts if part) or Path(names[0]).name


def _check_positions(reader: sitk.ImageSeriesReader, count: int, folder: Path) -> None:
    """Refuse a series whose slices are no even stack: as one volume it would be distorted."""
    texts = [_tag(reader, number, _POSITION) for number in range(count)]
    if count < 2 or not all(texts):
        return  # one file, or files without positions (secondary captures): nothing to compare
    positions = np.array([[float(part) for part in text.split("\\")] for text in texts])
    steps = np.diff(positions, axis=0)
    gaps = np.linalg.norm(steps, axis=1)
    if gaps.min() < 1e-3:
        raise SAMAutoSegError(
            f"the DICOM series in {folder} has several slices at one position (phases or echoes): "
            "put the files of one volume in a folder of its own"
        )
    if gaps.max() > gaps.min() * _UNEVEN_RATIO:
        raise SAMAutoSegError(
            f"the slices of the DICOM series in {folder} are {gaps.min():.4g} to {gaps.max():.4g} "
            "mm apart: a file is missing, or the series has to be resampled to an even spacing"
        )
    cosines = np.array([float(part) for part in _tag(reader, 0, _ORIENTATION).split("\\")])
    normal = np.cross(cosines[:3], cosines[3:])
    tilt = np.degrees(np.arccos(np.clip(abs(steps.sum(axis=0) @ normal) / gaps.sum(), 0, 1)))
    if tilt > _MOST_TILT_DEGREES:
        raise SAMAutoSegError(
            f"the DICOM series in {folder} was taken with a gantry tilted by {tilt:.1f} degrees: "
            "resample it to a rectangular grid first"
        )


def _tag(reader: sitk.ImageSeriesReader, number: int, tag: str) -> str:
    return reader.GetMetaData(number, tag).strip() if reader.HasMetaDataKey(number, tag) else ""


def _modality(text: str) -> Modality | None:
    return next((known for known in get_args(Modality) if known == text.strip()), None)


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


def _grid(image: sitk.Image) -> Grid:
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), direction)


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """The same values as uint8 or uint16."""
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= _HIGHEST_LABEL):
        raise SAMAutoSegError(
            f"{path} has values from {lowest} to {highest}: expected labels from 0 to "
            f"{_HIGHEST_LABEL}; is it an image?"
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


def _reason(error: RuntimeError) -> str:
    """One line of SimpleITK's message, without its source files and object addresses."""
    message = re.split(r"(?:ITK ERROR|sitk::ERROR): ", str(error))[-1]
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    return re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", lines[-1 if lines[0].endswith(":") else 0])
