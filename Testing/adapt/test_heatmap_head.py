import pytest
import torch

from SAMAutoSegLib.adapt.heatmap_head import HeatmapHead, HeatmapOutput, propose

SIDE = 16


def output(*centers: tuple[int, int, int, float]) -> HeatmapOutput:
    """Of two structures, with (class, row, column, logit) here and there, foreground everywhere."""
    heat = torch.full((1, 2, SIDE, SIDE), -9.0)
    for number, row, column, logit in centers:
        heat[0, number - 1, row, column] = logit
    inside = torch.zeros(1, 3, SIDE, SIDE)
    inside[:, 0] = -9
    reach = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1).expand(1, 4, SIDE, SIDE)
    return HeatmapOutput(heat, inside, reach)


def test_local_maxima_become_points_the_most_certain_first() -> None:
    heat = output((1, 4, 5, 1.0), (1, 4, 6, 0.5), (1, 10, 3, 3.0), (2, 4, 6, 2.0))
    (found,) = propose(heat, least=0.3, most=10)
    assert found.classes.tolist() == [1, 2, 1]
    assert (found.points * SIDE).tolist() == [[3.5, 10.5], [6.5, 4.5], [5.5, 4.5]]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_boxes_reach_from_the_point_to_their_edges_and_end_with_the_image() -> None:
    (found,) = propose(output((1, 8, 8, 2.0), (1, 1, 15, 1.0)), least=0.3, most=10)
    expected = [[7.5, 6.5, 11.5, 12.5], [14.5, 0.0, 16.0, 5.5]]
    assert (found.boxes * SIDE).tolist() == expected


def test_uncertain_maxima_and_those_beyond_the_limit_are_left_out() -> None:
    heat = output((1, 2, 2, 3.0), (1, 2, 9, 2.0), (1, 9, 2, 1.0), (1, 9, 9, -3.0))
    assert len(propose(heat, least=0.4, most=10)[0].scores) == 3
    assert len(propose(heat, least=0.4, most=2)[0].scores) == 2
    assert len(propose(heat, least=0.99, most=10)[0].scores) == 0


def test_a_center_that_is_in_the_background_counts_less() -> None:
    heat = output((1, 4, 4, 2.0), (1, 10, 10, 2.0))
    heat.inside[0, 0, 10, 10] = 9
    (found,) = propose(heat, least=0.3, most=10)
    assert (found.points * SIDE).tolist() == [[4.5, 4.5]]


def test_the_head_starts_with_hardly_any_center() -> None:
    torch.manual_seed(0)
    found = HeatmapHead(3)(torch.randn(2, 256, 8, 8))
    assert found.centers.shape == (2, 3, 16, 16) and found.inside.shape == (2, 4, 16, 16)
    assert found.centers.sigmoid().mean().item() == pytest.approx(0.018, abs=0.005)
    assert (found.reach > 0).all() and found.reach.shape == (2, 4, 16, 16)
