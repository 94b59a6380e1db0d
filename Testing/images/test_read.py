import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.write import write_volume

FORMATS = [".nii", ".nii.gz", ".nrrd", ".mha"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_voxels_and_grid_come_back_from_every_format(tmp_path, grid, suffix):
    i, j, k = grid.size
    values = np.arange(i * j * k, dtype=np.int16).reshape(k, j, i) - 100
    path = tmp_path / f"my.image{suffix}"
    write_volume(path, Volume(values, grid, "x"))
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array, values)
    assert volume.array.dtype == np.int16
    assert grid.describe_difference(volume.grid, tolerance=1e-5) == ""
    assert (volume.name, volume.source, volume.modality) == ("my.image", path, None)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
)
def test_every_voxel_type_is_kept(tmp_path, plain_grid, suffix, dtype):
    values = np.arange(210).reshape(5, 6, 7).astype(dtype)
    write_volume(tmp_path / f"x{suffix}", Volume(values, plain_grid, "x"))
    array = read_image(tmp_path / f"x{suffix}").array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, values)


def test_a_big_endian_nifti_reads_like_a_little_endian_one(tmp_path):
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 4, 3, 2, 1, 1, 1, 1)
    struct.pack_into(">hh", header, 70, 4, 16)  # int16
    struct.pack_into(">4f", header, 76, 1, 1.5, 2.5, 3.5)
    struct.pack_into(">f", header, 108, 352)
    header[344:348] = b"n+1\0"
    values = np.arange(-12, 12, dtype=">i2").reshape(2, 3, 4)
    (tmp_path / "big.nii").write_bytes(bytes(header) + values.tobytes())
    (tmp_path / "big.nii.gz").write_bytes(gzip.compress(bytes(header) + values.tobytes()))
    for name in ("big.nii", "big.nii.gz"):
        volume = read_image(tmp_path / name)
        np.testing.assert_array_equal(volume.array, values)
        assert volume.grid.spacing == (1.5, 2.5, 3.5)


def test_a_big_endian_nrrd_reads_its_values(tmp_path):
    values = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    header = "NRRD0004\ntype: float\ndimension: 3\nsizes: 4 3 2\nendian: big\nencoding: raw\n\n"
    (tmp_path / "big.nrrd").write_bytes(header.encode() + values.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "big.nrrd").array, values)


def test_a_2d_image_becomes_one_slice(tmp_path):
    values = np.arange(42, dtype=np.uint8).reshape(6, 7)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "flat.png"))
    volume = read_image(tmp_path / "flat.png")
    assert volume.grid.size == (7, 6, 1)
    np.testing.assert_array_equal(volume.array[0], values)


def test_a_color_image_is_refused(tmp_path):
    color = sitk.GetImageFromArray(np.zeros((6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(color, str(tmp_path / "color.png"))
    with pytest.raises(SAMAutoSegError, match="color.png has 3 values per voxel.*gray"):
        read_image(tmp_path / "color.png")


def test_a_time_series_is_refused_with_its_size(tmp_path):
    sitk.WriteImage(sitk.Image([7, 6, 5, 4], sitk.sitkInt16), str(tmp_path / "series.nii.gz"))
    with pytest.raises(SAMAutoSegError, match="4 axes.*7 x 6 x 5 x 4"):
        read_image(tmp_path / "series.nii.gz")


def test_a_fourth_axis_of_length_one_is_dropped(tmp_path):
    image = sitk.Image([7, 6, 5, 1], sitk.sitkInt16)
    image.SetSpacing((0.7, 0.8, 5.0, 1.0))
    image.SetOrigin((-1.0, 2.0, 3.0, 0.0))
    image[1, 2, 3, 0] = 9
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
    volume = read_image(tmp_path / "x.nrrd")
    assert volume.array.shape == (5, 6, 7)
    assert volume.array[3, 2, 1] == 9
    assert volume.grid.spacing == (0.7, 0.8, 5.0)
    assert volume.grid.origin == (-1.0, 2.0, 3.0)


def test_complex_numbers_are_refused(tmp_path):
    image = sitk.Image([4, 4, 4], sitk.sitkComplexFloat32)
    sitk.WriteImage(image, str(tmp_path / "k-space.mha"))
    with pytest.raises(SAMAutoSegError, match="k-space.mha (holds complex|has 2 values)"):
        read_image(tmp_path / "k-space.mha")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SAMAutoSegError, match="nowhere.nii.gz does not exist"):
        read_image(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize("name", ["x.nrrd", "x.nii.gz", "x.mha", "x.png", "scan"])
def test_a_file_that_may_not_be_read_is_not_said_to_be_missing(
    tmp_path, volume, write_series, monkeypatch, name
):
    if name == "scan":
        write_series(tmp_path / "scan", [0.0, 2.0])
        (tmp_path / "scan" / "other.dcm").write_bytes(b"unreadable")
    else:
        (tmp_path / name).write_bytes(b"an image")

    def refused(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(SAMAutoSegError, match=f"cannot read .*{name}.*: Permission denied"):
        read_image(tmp_path / name)


def test_a_name_that_is_too_long_is_told(tmp_path):
    # Windows says of such a file that it does not exist.
    words = "cannot read .*xxx.nrrd: File name too long|xxx.nrrd does not exist"
    with pytest.raises(SAMAutoSegError, match=words):
        read_image(tmp_path / f"{'x' * 300}.nrrd")


@pytest.mark.parametrize("name", ["notes.txt", "notes.nii.gz", "notes.png", "empty.nii"])
def test_a_file_that_is_no_image_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_text("" if name == "empty.nii" else "these are notes\n")
    with pytest.raises(SAMAutoSegError, match=f"cannot read .*{name}") as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.97])
def test_a_truncated_file_is_refused(tmp_path, volume, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    write_volume(path, volume)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(SAMAutoSegError, match=f"cut{suffix}"):
        read_image(path)


def test_a_dicom_folder_gives_hounsfield_units_position_and_modality(tmp_path, write_series):
    # Written from the top down: the files are put in order by their positions.
    write_series(tmp_path / "scan", [14.0, 12.0, 10.0, 8.0])
    volume = read_image(tmp_path / "scan")
    assert volume.array[:, 0, 0].tolist() == [-20, -30, -40, -50]
    assert volume.grid.size == (7, 6, 4)
    np.testing.assert_allclose(volume.grid.spacing, (0.7, 0.8, 2.0))
    np.testing.assert_allclose(volume.grid.origin, (-30, -20, 8))
    assert (volume.name, volume.modality) == ("scan", "CT")


def test_another_modality_than_ct_and_mr_is_not_claimed(tmp_path, write_series):
    write_series(tmp_path / "mr", [1.0, 2.0], modality="MR")
    write_series(tmp_path / "pet", [1.0, 2.0], modality="PT")
    assert read_image(tmp_path / "mr").modality == "MR"
    assert read_image(tmp_path / "pet").modality is None


def test_a_single_dicom_file_is_one_slice(tmp_path, write_series):
    write_series(tmp_path / "scan", [5.0])
    (file,) = (tmp_path / "scan").iterdir()
    for path in (file, tmp_path / "scan"):
        volume = read_image(path)
        assert volume.grid.size == (7, 6, 1)
        assert volume.modality == "CT"


def test_a_folder_with_several_series_is_refused_and_lists_them(tmp_path, write_series):
    write_series(tmp_path, [1.0, 2.0, 3.0], uid="1.2.3.1", description="arterial")
    write_series(tmp_path, [1.0, 2.0], uid="1.2.3.2", description="venous")
    with pytest.raises(SAMAutoSegError, match="2 DICOM series") as caught:
        read_image(tmp_path)
    assert "CT arterial (3 files)" in str(caught.value)
    assert "CT venous (2 files)" in str(caught.value)


def test_a_folder_without_dicom_is_refused(tmp_path, capfd):
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(SAMAutoSegError, match="no DICOM image in the folder"):
        read_image(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_series_with_a_missing_slice_is_refused(tmp_path, write_series):
    write_series(tmp_path, [0.0, 2.0, 4.0, 8.0, 10.0])
    with pytest.raises(SAMAutoSegError, match="2 to 4 mm apart: a file is missing"):
        read_image(tmp_path)


@pytest.mark.parametrize("number", [2, 4], ids=["in the middle", "the last"])
def test_a_damaged_file_of_a_series_is_named(tmp_path, write_series, number):
    write_series(tmp_path, [0.0, 2.0, 4.0, 6.0, 8.0])
    path = sorted(tmp_path.iterdir())[number]
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")  # the index of a disc
    with pytest.raises(SAMAutoSegError, match=f"{path.name} is damaged or cut off"):
        read_image(tmp_path)


def test_a_series_with_two_slices_in_one_place_is_refused(tmp_path, write_series):
    write_series(tmp_path, [0.0, 2.0, 2.0, 4.0])
    with pytest.raises(SAMAutoSegError, match="several slices at one position"):
        read_image(tmp_path)


def test_a_series_from_a_tilted_gantry_is_refused(tmp_path, write_series):
    write_series(tmp_path, [0.0, 2.0, 4.0], tilt=np.tan(np.radians(12)))
    with pytest.raises(SAMAutoSegError, match="tilted by 12.0 degrees"):
        read_image(tmp_path)


def test_labels_without_names_are_called_after_their_values(tmp_path, plain_grid):
    values = np.zeros((5, 6, 7), np.int32)
    values[0, 0, 0], values[1, 1, 1] = 3, 300
    write_volume(tmp_path / "labels.nii.gz", Volume(values, plain_grid, "x"))
    labels, structures = read_labels(tmp_path / "labels.nii.gz")
    assert labels.array.dtype == np.uint16
    np.testing.assert_array_equal(labels.array, values)
    assert [(s.label, s.name) for s in structures] == [(3, "label 3"), (300, "label 300")]


def test_whole_numbers_stored_as_floats_are_labels(tmp_path, plain_grid):
    values = np.full((5, 6, 7), 2.0)
    write_volume(tmp_path / "labels.mha", Volume(values, plain_grid, "x"))
    labels, _ = read_labels(tmp_path / "labels.mha")
    assert labels.array.dtype == np.uint8
    assert (labels.array == 2).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "no whole numbers"),
        (-1.0, "values from -1.0 to 0.0"),
        (70000.0, "0 to 65535"),
        (np.nan, "values from nan"),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path, plain_grid, value, message):
    values = np.zeros((5, 6, 7))
    values[2, 2, 2] = value
    write_volume(tmp_path / "image.nrrd", Volume(values, plain_grid, "x"))
    with pytest.raises(SAMAutoSegError, match=message):
        read_labels(tmp_path / "image.nrrd")


def test_overlapping_layers_are_flattened_with_the_later_segment_on_top(tmp_path, write_layers):
    organ = np.zeros((5, 6, 7), np.uint8)
    organ[1:4, 1:5, 1:6] = 1
    lesion = np.zeros_like(organ)
    lesion[2, 2, 2:5] = 1
    write_layers(
        tmp_path / "x.seg.nrrd",
        [organ, lesion],
        [("organ", 1, 0), ("lesion", 1, 1)],
    )
    labels, structures = read_labels(tmp_path / "x.seg.nrrd")
    assert [(s.label, s.name) for s in structures] == [(1, "organ"), (2, "lesion")]
    assert structures[0].color == (0.5, 0.25, 1.0)
    np.testing.assert_array_equal(labels.array, np.where(lesion, 2, organ))


def test_layers_with_different_values_keep_them(tmp_path, write_layers):
    first, second = np.zeros((2, 5, 6, 7), np.uint8)
    first[1], second[1:3, 0] = 7, 4
    write_layers(tmp_path / "x.seg.nrrd", [first, second], [("seven", 7, 0), ("four", 4, 1)])
    labels, structures = read_labels(tmp_path / "x.seg.nrrd")
    assert [(s.label, s.name) for s in structures] == [(4, "four"), (7, "seven")]
    np.testing.assert_array_equal(labels.array, np.where(second, second, first))


def test_a_segment_in_a_layer_that_is_not_there_is_refused(tmp_path, write_layers):
    layer = np.ones((5, 6, 7), np.uint8)
    write_layers(tmp_path / "x.seg.nrrd", [layer, layer], [("a", 1, 0), ("b", 1, 5)])
    with pytest.raises(SAMAutoSegError, match="segment b is in layer 5 of 2"):
        read_labels(tmp_path / "x.seg.nrrd")


def test_a_damaged_segment_header_is_refused(tmp_path, write_layers):
    layer = np.ones((5, 6, 7), np.uint8)
    write_layers(tmp_path / "x.seg.nrrd", [layer], [("a", "one", 0)])
    with pytest.raises(SAMAutoSegError, match="header of .*x.seg.nrrd is damaged.*'one'"):
        read_labels(tmp_path / "x.seg.nrrd")


def test_values_that_no_segment_names_are_labels_too(tmp_path, write_layers):
    layer = np.zeros((5, 6, 7), np.uint8)
    layer[1], layer[2] = 1, 9
    write_layers(tmp_path / "x.seg.nrrd", [layer], [("organ", 1, 0)])
    labels, structures = read_labels(tmp_path / "x.seg.nrrd")
    assert [s.name for s in structures] == ["organ", "label 9"]
    np.testing.assert_array_equal(labels.array, layer)


@pytest.mark.parametrize("value", ["0", "-1", "70000"])
def test_a_segment_of_a_value_that_no_label_has_is_refused(tmp_path, write_layers, value):
    write_layers(tmp_path / "x.seg.nrrd", [np.ones((5, 6, 7), np.uint8)], [("organ", value, 0)])
    with pytest.raises(SAMAutoSegError, match=f"x.seg.nrrd is damaged: label {value} of .*organ"):
        read_labels(tmp_path / "x.seg.nrrd")


@pytest.mark.parametrize("color", ["nan 0 0", "0 0 255", "-1 0 0", "1 0", "red"])
def test_a_segment_of_no_possible_color_gets_one(tmp_path, write_layers, color):
    path = tmp_path / "x.seg.nrrd"
    write_layers(path, [np.ones((5, 6, 7), np.uint8)], [("organ", 1, 0)])
    image = sitk.ReadImage(str(path))
    image.SetMetaData("Segment0_Color", color)
    sitk.WriteImage(image, str(path))
    _, (structure,) = read_labels(path)
    assert structure.color == structure_named("organ", 1).color


@pytest.mark.parametrize("places", [(268, 292), (256, 280)], ids=["origin", "direction"])
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_geometry_that_is_no_numbers_is_refused(tmp_path, plain_grid, places, read):
    path = tmp_path / "x.nii"
    write_volume(path, Volume(np.zeros((5, 6, 7), np.uint8), plain_grid, "x"))
    content = bytearray(path.read_bytes())
    for place in places:
        struct.pack_into("<f", content, place, np.nan)
    path.write_bytes(content)
    with pytest.raises(SAMAutoSegError, match="x.nii has the spacing .*expected finite numbers"):
        read(path)
