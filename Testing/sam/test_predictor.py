from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor

SIZES = [(113, 257), (257, 113), (40, 30), (128, 128)]
PROMPTS = {
    "one point": {"points": [[20, 15]], "labels": [1]},
    "points in and out": {"points": [[20, 15], [3, 30], [25, 2]], "labels": [1, 0, 1]},
    "box": {"box": [4, 5, 22, 28]},
    "box and points": {"box": [4, 5, 22, 28], "points": [[10, 15], [25, 2]], "labels": [1, 0]},
    "mask": {"mask_input": "random"},
    "mask and point": {"mask_input": "random", "points": [[20, 15]], "labels": [1]},
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("multimask", [True, False], ids=["three masks", "one mask"])
@pytest.mark.parametrize("attention", ["reference", "fast"])
def test_masks_are_those_of_the_upstream_predictor(
    size: tuple[int, int],
    prompt: dict,
    multimask: bool,
    attention: str,
    tiny_backbone: Callable[..., Backbone],
    upstream_sam: Callable,
    segment_anything: object,
    picture: Callable[..., np.ndarray],
) -> None:
    backbone = tiny_backbone(attention=attention)
    image = np.stack([picture(*size, seed=n) for n in range(3)], axis=-1)
    given = {name: np.array(value) for name, value in prompt.items()}
    if "mask_input" in given:
        given["mask_input"] = np.random.default_rng(1).normal(size=(1, 32, 32)).astype("float32")
    theirs = segment_anything.SamPredictor(upstream_sam(backbone))
    theirs.set_image(image)
    masks, iou, low_res = theirs.predict(
        given.get("points"),
        given.get("labels"),
        given.get("box"),
        given.get("mask_input"),
        multimask_output=multimask,
    )

    ours = ClickPredictor(backbone)
    ours.set_image(image)
    found = ours.predict(**given, multimask=multimask)

    assert found.masks.shape == (3 if multimask else 1, *size)
    # A CPU may resize one map and three at once with other last digits: a pixel whose logit is next
    # to zero may turn over.
    assert (found.masks == masks).mean() >= 0.9999
    if attention == "reference":
        np.testing.assert_array_equal(found.iou, iou)
        np.testing.assert_array_equal(found.low_res, low_res)
    else:
        np.testing.assert_allclose(found.iou, iou, atol=1e-5)
        np.testing.assert_allclose(found.low_res, low_res, atol=1e-5)


def test_a_gray_slice_is_encoded_like_the_same_slice_in_three_channels(
    tiny_backbone: Callable[..., Backbone], picture: Callable[..., np.ndarray]
) -> None:
    predictor = ClickPredictor(tiny_backbone())
    gray = picture(50, 70)

    once = predictor.set_image(gray)
    thrice = predictor.set_image(np.stack([gray] * 3, axis=-1))

    assert torch.equal(once, thrice)


def test_a_kept_embedding_gives_what_the_slice_gives(
    tiny_backbone: Callable[..., Backbone], picture: Callable[..., np.ndarray]
) -> None:
    predictor = ClickPredictor(tiny_backbone())
    embedding = predictor.set_image(picture(50, 70))
    first = predictor.predict(box=np.array([5, 5, 40, 30]))
    predictor.set_image(picture(50, 70, seed=9))

    predictor.set_embedding(embedding[0], (50, 70))

    np.testing.assert_array_equal(predictor.predict(box=[5, 5, 40, 30]).masks, first.masks)


def test_a_rough_answer_differs_only_where_the_backbone_computes_in_half_precision(
    tiny_backbone: Callable[..., Backbone], picture: Callable[..., np.ndarray]
) -> None:
    boxes = np.array([[5, 5, 40, 30], [30, 20, 60, 45]])
    for precision in (torch.float32, torch.bfloat16):
        predictor = ClickPredictor(tiny_backbone(precision=precision))
        predictor.set_image(picture(50, 70))
        exact, rough = predictor.predict_boxes(boxes), predictor.predict_boxes(boxes, rough=True)
        for one, other in zip(exact, rough, strict=True):
            near = 0.05 * np.abs(one.low_res).max()
            same = np.array_equal(one.low_res, other.low_res)
            assert same == (precision == torch.float32)
            assert other.low_res.dtype == other.iou.dtype == np.float32
            np.testing.assert_allclose(other.low_res, one.low_res, atol=near)


def test_many_boxes_in_one_pass_give_what_each_gives_alone(
    tiny_backbone: Callable[..., Backbone], picture: Callable[..., np.ndarray]
) -> None:
    predictor = ClickPredictor(tiny_backbone())
    predictor.set_image(picture(50, 70))
    boxes = np.array([[5, 5, 40, 30], [0, 0, 69, 49], [30, 20, 35, 25]])

    together = predictor.predict_boxes(boxes)

    for box, found in zip(boxes, together, strict=True):
        alone = predictor.predict(box=box, multimask=False)
        np.testing.assert_allclose(found.low_res, alone.low_res, atol=1e-5)


def test_mistakes_in_prompts_are_named(tiny_backbone: Callable[..., Backbone]) -> None:
    predictor = ClickPredictor(tiny_backbone())
    with pytest.raises(SAMAutoSegError, match="no slice is set"):
        predictor.predict(box=np.array([0, 0, 5, 5]))
    predictor.set_embedding(torch.zeros(256, 8, 8), (20, 20))
    with pytest.raises(SAMAutoSegError, match="needs a label"):
        predictor.predict(points=np.array([[1, 2]]))
    with pytest.raises(SAMAutoSegError, match="needs a label"):
        predictor.predict(points=np.array([[1, 2]]), labels=np.array([1, 0]))
    with pytest.raises(SAMAutoSegError, match=r"expected \(256, 8, 8\)"):
        predictor.set_embedding(torch.zeros(256, 64, 64), (20, 20))
