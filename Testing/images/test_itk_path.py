"""Names that ITK cannot open on Windows."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images import itk_path
from SAMAutoSegLib.images.read import read_image
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_volume

GRID = Grid((5, 4, 3), (1.0, 1.0, 2.5), (-3.0, 4.0, 5.0), np.eye(3))
ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder on a system whose ITK takes ASCII only."""
    folder = tmp_path / "Jörg Müller"
    folder.mkdir()
    monkeypatch.setattr(itk_path, "_ASCII_ONLY", True)
    read, write = sitk.ReadImage, sitk.WriteImage

    def ascii_only(path: str) -> None:
        if not path.isascii():
            raise RuntimeError(f"ITK ERROR: cannot open {path}")

    def reading(path: str) -> sitk.Image:
        ascii_only(path)
        return read(path)

    def writing(image: sitk.Image, path: str, **options: bool) -> None:
        ascii_only(path)
        write(image, path, **options)

    monkeypatch.setattr(sitk, "ReadImage", reading)
    monkeypatch.setattr(sitk, "WriteImage", writing)
    return folder


@pytest.mark.parametrize("name", ["scan.nii.gz", "schädel.nii.gz", "ct.seg.nrrd", "頭.mha"])
def test_images_of_a_user_with_such_a_name_are_written_and_read(folder: Path, name: str) -> None:
    write_volume(folder / name, Volume(ARRAY, GRID, "scan"))
    assert [path.name for path in folder.iterdir()] == [name]
    image = read_image(folder / name)
    np.testing.assert_array_equal(image.array, ARRAY)
    assert image.grid.same_as(GRID) and image.source == folder / name


def test_a_dicom_folder_is_read_and_named_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(SAMAutoSegError, match=f"no DICOM image in the folder {folder}"):
        read_image(folder)
    monkeypatch.setattr(itk_path, "_ASCII_ONLY", False)
    for number, values in enumerate(ARRAY):
        one = sitk.GetImageFromArray(values[None])
        for key, value in {
            "0008|0060": "CT",
            "0008|0018": f"1.2.3.{number}",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.4",
            "0020|0032": f"0\\0\\{2 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            one.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        plain = folder.parent / f"{number}.dcm"
        writer.SetFileName(str(plain))
        writer.Execute(one)
        # The copy of one must not take the place of another.
        plain.rename(folder / ("ü.dcm" if number == 0 else f"{2 - number}.dcm"))
    monkeypatch.setattr(itk_path, "_ASCII_ONLY", True)
    np.testing.assert_array_equal(read_image(folder).array, ARRAY)


def test_a_header_whose_voxels_lie_in_another_file_is_told_to_be_moved(folder: Path) -> None:
    (folder / "scan.nhdr").write_text("NRRD0004\n")
    with pytest.raises(SAMAutoSegError, match="move both to a folder with plain names"):
        read_image(folder / "scan.nhdr")


def test_elsewhere_any_temporary_folder_will_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itk_path, "_ASCII_ONLY", False)
    monkeypatch.setattr(itk_path.tempfile, "gettempdir", lambda: str(folder))
    with itk_path.plain_folder() as found:
        assert found.parent == folder


def test_where_no_folder_has_a_plain_name_it_is_said_which_to_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itk_path.tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.delenv("PROGRAMDATA", raising=False)
    (folder / "scan.mha").touch()
    with pytest.raises(SAMAutoSegError, match="let TEMP name a folder"):
        read_image(folder / "scan.mha")
