from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.methods.losses import mean_dice
from SAMAutoSegLib.segment.changed_views import ChangedViews
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import segment_volume

from .conftest import Segmenter

SHAPE, SPACING = (90, 120), (0.8, 1.4)


@pytest.fixture
def views() -> ChangedViews:
    return ChangedViews(3, SHAPE, SPACING)


def picture() -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bright = np.hypot(rows - 30, (columns - 85) / 1.5) < 14
    return np.where(bright, 200, 60).astype(np.uint8)


def found_in(image: np.ndarray) -> torch.Tensor:
    """Logits of somebody who sees what is bright."""
    bright = torch.from_numpy(image > 100)
    return torch.stack([~bright, bright]) * 12.0


def test_what_is_found_in_the_views_comes_back_to_its_place(views: ChangedViews) -> None:
    image = picture()
    shown = views.of(image)
    expected = torch.from_numpy(image > 100).long()
    moved = [mean_dice(found_in(view).argmax(0), expected, 2) for view in shown]
    assert max(moved) < 0.95  # they do differ
    blind = torch.zeros(2, *SHAPE)  # so that the views decide
    back = views.averaged(blind, [found_in(view) for view in shown])
    assert mean_dice(back.argmax(0), expected, 2) > 0.97
    assert torch.allclose(back.exp().sum(0), torch.ones(SHAPE), atol=1e-4)


def test_a_view_says_nothing_of_what_it_did_not_show(views: ChangedViews) -> None:
    everywhere = torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 9.0)])
    average = views.averaged(everywhere, [everywhere] * 3)
    assert average[1].exp().min() > 0.999  # at the edges too


def test_color_channels_move_together(views: ChangedViews) -> None:
    image = picture()
    for gray, neighbors in zip(views.of(image), views.of(np.stack([image] * 3, -1)), strict=True):
        assert np.array_equal(neighbors, np.stack([gray] * 3, -1))


def test_a_volume_is_segmented_in_several_views(
    segmenter: Callable[..., Segmenter], scan: Callable[..., Volume]
) -> None:
    tiny = segmenter()
    given = scan(), tiny.model, tiny.card, tiny.backbone
    one, several = (segment_volume(*given, uncertainty=True, views=n) for n in (1, 3))
    assert np.array_equal(one.labels, segment_volume(*given).labels)
    assert several.slices_done == one.slices_done
    assert not np.array_equal(several.uncertainty, one.uncertainty)
    again = segment_volume(*given, uncertainty=True, views=3)
    assert np.array_equal(again.uncertainty, several.uncertainty)
    segment_volume(*given, views=2, refinement=Refinement(1), slices=[1])
    with pytest.raises(SAMAutoSegError, match="0 views of a slice: expected 1 or more"):
        segment_volume(*given, views=0)
