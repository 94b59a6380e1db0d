import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import CT_WINDOWS, Intensity, default_intensity
from SAMAutoSegLib.images.volume import Grid, Volume


def volume_of(array: np.ndarray, modality=None) -> Volume:
    return Volume(
        array, Grid(array.shape[::-1], (1, 1, 1), (0, 0, 0), np.eye(3)), "v", None, modality
    )


def body(shape=(10, 20, 20)) -> np.ndarray:
    """A CT: air around soft tissue with some bone."""
    hounsfield = np.full(shape, -1000, dtype=np.int16)
    hounsfield[:, 5:15, 5:15] = np.random.default_rng(0).normal(50, 20, (shape[0], 10, 10))
    hounsfield[:, 8:10, 8:10] = 900
    return hounsfield


def test_a_window_maps_its_ends_to_black_and_white_and_clips_beyond():
    values = np.array([-1000, -160, 40, 240, 3000], dtype=np.int16)
    gray = Intensity.window(center=40, width=400).apply(values)
    assert gray.dtype == np.uint8
    assert gray.tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", ">i2", ">f4", "float64"]
)
def test_every_voxel_type_gives_the_same_gray_levels(dtype):
    values = np.arange(0, 200, 7).reshape(1, 1, -1)
    expected = Intensity("window", 20, 180).apply(values)
    np.testing.assert_array_equal(
        Intensity("window", 20, 180).apply(values.astype(dtype)), expected
    )


def test_large_values_keep_their_precision():
    values = np.array([2.0**25, 2.0**25 + 1, 2.0**25 + 2])
    assert Intensity("window", 2.0**25, 2.0**25 + 2).apply(values).tolist() == [0, 128, 255]


def test_nan_is_black_and_infinities_are_the_ends():
    values = np.array([[[np.nan, -np.inf, np.inf, -1.0, 0.5, 1.0]]])
    assert Intensity("window", -1, 1).apply(values).ravel().tolist() == [0, 0, 255, 0, 191, 255]
    assert Intensity("percentile", 0, 100).apply(values)[0, 0, :3].tolist() == [0, 0, 255]


def test_a_volume_without_any_finite_voxel_is_black():
    assert not Intensity("percentile", 0, 100).apply(np.full((2, 2), np.nan)).any()


def test_percentiles_ignore_the_empty_background_and_values_that_are_not_finite():
    tissue = np.arange(1, 101, dtype=float)
    array = np.concatenate([np.zeros(900), tissue, [np.nan, np.inf, -np.inf]])
    assert Intensity("percentile", 0, 100).limits(array) == (1, 100)
    low, high = Intensity("percentile", 10, 90).limits(array)
    assert low == pytest.approx(10.9)
    assert high == pytest.approx(90.1)


@pytest.mark.parametrize("value", [0, 5, -3])
def test_a_constant_volume_is_black_under_percentiles(value):
    assert not Intensity("percentile", 0.5, 99.5).apply(np.full((2, 3, 4), value)).any()


def test_a_mask_with_one_value_besides_the_background_stays_visible():
    array = np.zeros((2, 3, 4))
    array[0, 1] = 7
    gray = Intensity("percentile", 0.5, 99.5).apply(array)
    assert (gray == np.where(array == 7, 255, 0)).all()


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_a_named_window_is_read_with_its_center_and_width(name):
    center, width = CT_WINDOWS[name]
    intensity = Intensity.parse(f"CT:{name}")
    assert (intensity.low, intensity.high) == (center - width / 2, center + width / 2)


@pytest.mark.parametrize(
    "text", ["-160,240", "percentile:0.5,99.5", "-0.25,1.75", "1234567,1234570.25"]
)
def test_text_and_json_give_the_same_intensity_back(text):
    intensity = Intensity.parse(text)
    assert str(intensity) == text
    assert Intensity.from_json(intensity.to_json()) == intensity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ct:belly", "'belly'.*abdomen, bone"),
        ("abdomen", "'abdomen'.*ct:NAME"),
        ("1,2,3", "'1,2,3'"),
        ("mr:1,2", "'mr:1,2'"),
        ("240,-160", "240,-160.*below"),
        ("5,5", "below"),
        ("nan,5", "below"),
        ("percentile:1,200", "from 0 to 100"),
        ("", "cannot read"),
    ],
)
def test_text_that_makes_no_sense_is_refused_with_what_was_expected(text, message):
    with pytest.raises(SAMAutoSegError, match=message):
        Intensity.parse(text)


@pytest.mark.parametrize(
    "data", [{}, {"kind": "window", "low": "a", "high": 1}, {"kind": "log", "low": 0, "high": 1}]
)
def test_malformed_json_is_refused(data):
    with pytest.raises(SAMAutoSegError):
        Intensity.from_json(data)


def test_hounsfield_units_get_the_abdomen_window_without_being_told():
    assert default_intensity(volume_of(body())) == Intensity.parse("ct:abdomen")


def test_a_ct_without_air_gets_the_abdomen_window_if_dicom_says_it_is_one():
    inside = body()[:, 5:15, 5:15]
    assert default_intensity(volume_of(inside, "CT")) == Intensity.parse("ct:abdomen")


def test_mr_gets_percentiles_whatever_its_values():
    assert default_intensity(volume_of(np.abs(body()))).kind == "percentile"
    assert default_intensity(volume_of(body(), "MR")).kind == "percentile"
