from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.input_spec import InputSpec


@pytest.mark.parametrize("size", [(113, 257), (257, 113), (512, 512), (1, 300)], ids=str)
def test_the_input_is_upstreams_bit_for_bit(
    size: tuple[int, int], segment_anything: object, picture: Callable[..., np.ndarray]
) -> None:
    image = np.stack([picture(*size, seed=n) for n in range(3)], axis=-1)
    side = 320
    resize = segment_anything.utils.transforms.ResizeLongestSide(side)
    encoder = torch.nn.Identity()
    encoder.img_size = side
    sam = segment_anything.modeling.Sam(encoder, None, None)
    wanted = sam.preprocess(torch.as_tensor(resize.apply_image(image)).permute(2, 0, 1))

    assert torch.equal(InputSpec(side=side).prepare(image), wanted)


def test_unit_normalization_gives_values_from_zero_to_one() -> None:
    spec = InputSpec(side=32, normalization="unit")
    prepared = spec.prepare(np.full((32, 16), 255, np.uint8))
    assert prepared.shape == (3, 32, 32)
    assert (prepared[:, :, :16] == 1).all() and (prepared[:, :, 16:] == 0).all()


def test_center_padding_puts_the_slice_in_the_middle() -> None:
    spec = InputSpec(side=32, normalization="unit", padding="center")
    prepared = spec.prepare(np.full((32, 16), 255, np.uint8))
    assert (prepared[:, :, 8:24] == 1).all()
    assert prepared.sum() == 3 * 32 * 16


def test_the_input_does_not_depend_on_the_layout_in_memory(
    picture: Callable[..., np.ndarray],
) -> None:
    image = picture(40, 60)
    spec = InputSpec(side=64)
    flipped_view = image[::-1, ::-1]
    assert torch.equal(spec.prepare(flipped_view), spec.prepare(flipped_view.copy()))
    assert torch.equal(spec.prepare(image.T), spec.prepare(image.T.copy()))


@pytest.mark.parametrize("padding", ["bottom_right", "center"])
@pytest.mark.parametrize("aspect", ["pixel", "stretch"])
def test_logits_come_back_to_the_place_the_point_went_to(padding: str, aspect: str) -> None:
    spec = InputSpec(side=128, padding=padding, aspect=aspect)
    original = (50, 90)
    point = np.array([[70.5, 30.5]])
    x, y = spec.to_input_points(point, original)[0]
    low_res = torch.full((2, 1, 32, 32), -1.0)
    low_res[..., int(y / 4), int(x / 4)] = 50

    found = spec.logits_to_slice(low_res, original)

    assert found.shape == (2, 1, 50, 90)
    row, column = divmod(int(found[0, 0].argmax()), 90)
    assert abs(row - 30) <= 2 and abs(column - 70) <= 3


def test_a_box_is_moved_like_its_corners() -> None:
    spec = InputSpec(side=256, padding="center")
    box = np.array([3.0, 4.0, 50.0, 20.0])
    corners = spec.to_input_points(box.reshape(2, 2), (60, 100))
    np.testing.assert_array_equal(spec.to_input_boxes(box, (60, 100)), corners.ravel())
    assert spec.to_input_boxes(np.stack([box, box]), (60, 100)).shape == (2, 4)


def test_json_gives_the_same_specification_back() -> None:
    spec = InputSpec(448, "unit", "center", "stretch")
    assert InputSpec.from_json(spec.to_json()) == spec


def test_what_earlier_versions_wrote_is_read() -> None:
    written = {
        "side": 256,
        "normalization": "unit",
        "padding": "bottom_right",
        "aspect": "pixel",
        "channels": "repeat",
    }
    assert InputSpec.from_json(written) == InputSpec(256, "unit")
    assert written["channels"] == "repeat"


def test_what_is_not_allowed_is_named() -> None:
    with pytest.raises(SAMAutoSegError, match="normalization 'zscore'"):
        InputSpec(normalization="zscore")
    with pytest.raises(SAMAutoSegError, match="'window'"):
        InputSpec.from_json({"side": 256, "window": 3})
    with pytest.raises(SAMAutoSegError, match="channels 'neighbors': expected repeat"):
        InputSpec.from_json({"side": 256, "channels": "neighbors"})
    with pytest.raises(SAMAutoSegError, match="aspect 'physical': expected one of pixel, stretch"):
        InputSpec.from_json({"side": 256, "aspect": "physical"})
    with pytest.raises(SAMAutoSegError, match="float64"):
        InputSpec().prepare(np.zeros((4, 4)))
    with pytest.raises(SAMAutoSegError, match="4 channels"):
        InputSpec().prepare(np.zeros((4, 4, 4), np.uint8))
