from collections.abc import Callable

import numpy as np
import pytest

from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.segment.prompted import prompt_with_boxes

Stacks = tuple[SliceStack, SliceStack]


@pytest.fixture
def stacks(scan: Callable[..., Volume]) -> Stacks:
    """Gray slices and a reference: label 4 in slices 1 and 2, label 9 in slice 2 only."""
    volume = scan()
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[1, 5:12, 8:20] = 4
    labels[2, 3, 2] = 4
    labels[2, 17:30, 22:40] = 9
    return (
        SliceStack(volume.array.astype(np.uint8), volume.grid),
        SliceStack(labels, volume.grid),
    )


def mask_in_box(backbone: Backbone, image: np.ndarray, box: list[int]) -> np.ndarray:
    predictor = ClickPredictor(backbone)
    predictor.set_image(image)
    return predictor.predict(box=np.array(box), multimask=False).masks[0]


def test_a_box_from_border_to_border_prompts_each_structure(
    tiny_backbone: Callable[..., Backbone], stacks: Stacks
) -> None:
    backbone = tiny_backbone()
    images, reference = stacks
    found = prompt_with_boxes(images, reference, backbone)
    expected = mask_in_box(backbone, images.slice_at(1), [8, 5, 20, 12])
    assert expected.any() and not expected.all()
    assert np.array_equal(found[1], np.where(expected, 4, 0))


def test_where_masks_overlap_the_higher_logit_wins(
    tiny_backbone: Callable[..., Backbone], stacks: Stacks
) -> None:
    backbone = tiny_backbone()
    images, reference = stacks
    found = prompt_with_boxes(images, reference, backbone)
    four = mask_in_box(backbone, images.slice_at(2), [2, 3, 3, 4])
    nine = mask_in_box(backbone, images.slice_at(2), [22, 17, 40, 30])
    both = four & nine
    assert np.array_equal(found[2] > 0, four | nine)
    assert (found[2][four & ~nine] == 4).all() and (found[2][nine & ~four] == 9).all()
    assert set(np.unique(found[2][both])) == {4, 9}


def test_slices_without_a_structure_meet_no_encoder(
    tiny_backbone: Callable[..., Backbone], stacks: Stacks
) -> None:
    backbone = tiny_backbone()
    images, reference = stacks
    told: list[str] = []
    found = prompt_with_boxes(
        images, reference, backbone, progress=lambda _, text: told.append(text)
    )
    assert told[-1].endswith("2 of 2") and len(told) == 2
    assert not found[[0, 3, 4]].any()
    assert found.dtype == np.uint8 and found.shape == reference.array.shape


def test_only_the_chosen_slices_are_prompted(
    tiny_backbone: Callable[..., Backbone], stacks: Stacks
) -> None:
    backbone = tiny_backbone()
    images, reference = stacks
    whole = prompt_with_boxes(images, reference, backbone)
    found = prompt_with_boxes(images, reference, backbone, slices=[0, 2])
    assert np.array_equal(found[2], whole[2]) and not found[1].any()
    assert not prompt_with_boxes(images, reference, backbone, slices=[0]).any()


def test_flipped_storage_gives_the_flipped_labels(
    tiny_backbone: Callable[..., Backbone], stacks: Stacks, scan: Callable[..., Volume]
) -> None:
    backbone = tiny_backbone()
    images, reference = stacks
    grid = scan(direction=np.diag([-1.0, -1.0, 1.0])).grid
    turned = [SliceStack(np.flip(stack.array, (1, 2)), grid) for stack in stacks]
    found = prompt_with_boxes(turned[0], turned[1], backbone)
    assert np.array_equal(np.flip(found, (1, 2)), prompt_with_boxes(images, reference, backbone))
