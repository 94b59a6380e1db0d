"""Read a folder with one DICOM series."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.dicom_files import refuse_lost
from SAMAutoSegLib.images.dicom_geometry import SliceTags, require_even_stack
from SAMAutoSegLib.images.file_name import require_utf8
from SAMAutoSegLib.images.itk_error import reason_of

MODALITY = "0008|0060"
_SERIES_DESCRIPTION = "0008|103e"
_SERIES_NUMBER = "0020|0011"
_UID = "0008|0018"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_RESCALE = ("0028|1052", "0028|1053")  # intercept and slope


def read_series(folder: Path) -> tuple[sitk.Image, str]:
    """The image and the modality of the one series in a folder.

    Raises:
        SAMAutoSegError: there is none or more than one, a file is damaged or missing, or the slices
            are no even stack.
    """
    reader = sitk.ImageSeriesReader()
    with _without_warnings():
        series = reader.GetGDCMSeriesIDs(str(folder))
    files = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    for name in (name for names in files.values() for name in names):
        require_utf8(Path(name))
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
    refuse_lost(folder, names)
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
            f"cannot read the DICOM series in {folder}: {reason_of(error)}"
        ) from error
    slices = [
        slice_tags(Path(name), functools.partial(_tag, reader, n)) for n, name in enumerate(names)
    ]
    require_even_stack(slices, folder)
    return image, _tag(reader, 0, MODALITY)


def slice_tags(file: Path, told: Callable[[str], str]) -> SliceTags:
    """What `told` gives for the tags of a slice."""
    return SliceTags(file, told(_UID), told(_POSITION), told(_ORIENTATION))


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
        for tag in (MODALITY, _SERIES_NUMBER, _SERIES_DESCRIPTION)
        if header.HasMetaDataKey(tag)
    ]
    return " ".join(part for part in parts if part) or Path(names[0]).name


def _tag(reader: sitk.ImageSeriesReader, number: int, tag: str) -> str:
    return reader.GetMetaData(number, tag).strip() if reader.HasMetaDataKey(number, tag) else ""
