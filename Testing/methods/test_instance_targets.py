import numpy as np
import pytest

from SAMAutoSegLib.methods.instance_targets import find_instances, instance_targets
from SAMAutoSegLib.methods.losses import IGNORED


def test_every_connected_part_of_a_structure_is_an_instance() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[2:5, 2:6] = 1
    labels[5:7, 6:8] = 1  # touches the corner of the first
    labels[12:15, 3:5] = 1
    labels[12:15, 5:9] = 2  # touches the second, is another structure
    found = [(i.number, i.box, i.pixels) for i in find_instances(labels)]
    assert found == [
        (1, (2, 2, 7, 8), 16),
        (1, (12, 3, 15, 5), 6),
        (2, (12, 5, 15, 9), 12),
    ]


def test_the_point_of_a_curved_instance_lies_in_it() -> None:
    rows, columns = np.mgrid[:40, :40]
    distance = np.hypot(rows - 20, columns - 20)
    ring = ((distance > 12) & (distance < 15) & (columns > 16)).astype(np.uint8)
    (instance,) = find_instances(ring)
    assert ring[instance.point] == 1


def test_centers_boxes_and_foreground_are_given_back_by_their_targets() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[8:20, 4:40] = 2
    labels[40:60, 40:50] = 1
    targets = instance_targets(labels, 2, 32)
    assert targets.count == 2
    for number, (top, left, bottom, right) in ((2, (4, 2, 10, 20)), (1, (20, 20, 30, 25))):
        ((row, column),) = np.argwhere(targets.heat[number - 1].numpy() == 1)
        assert top <= row < bottom and left <= column < right
        reach = targets.reach[:, row, column].numpy()
        x, y = column + 0.5, row + 0.5
        edges = (x - reach[0], y - reach[1], x + reach[2], y + reach[3])
        assert edges == pytest.approx((left, top, right, bottom))
        assert targets.box_weight[row, column] == 1
    assert np.array_equal(targets.inside.numpy(), labels[1::2, 1::2])


def test_boxes_are_learned_around_centers_only_and_inside_of_the_instance() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[10:14, 10:50] = 1
    targets = instance_targets(labels, 1, 32)
    learned = targets.box_weight.numpy() > 0
    assert 1 < learned.sum() < 12
    assert not learned[:5].any() and not learned[7:].any()
    assert (targets.reach.numpy()[:, learned] > 0).all()


def test_what_lies_outside_of_the_slice_is_no_instance() -> None:
    labels = np.full((32, 32), IGNORED, np.uint8)
    labels[:21] = 0  # of the eleventh row of cells the upper half
    targets = instance_targets(labels, 1, 16)
    assert targets.count == 0 and targets.heat.max() == 0
    assert (targets.inside[10:] == IGNORED).all()


def test_an_instance_smaller_than_a_cell_has_a_center_and_a_box() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[7, 11] = 1
    targets = instance_targets(labels, 1, 16)
    assert targets.heat[0, 3, 5] == 1
    assert targets.box_weight[3, 5] == 1 and (targets.reach[:, 3, 5] > 0).all()
