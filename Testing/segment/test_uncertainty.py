from dataclasses import replace

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.uncertainty import first_to_check, wrong_probability
from SAMAutoSegLib.segment.volume import SegmentationResult, segment_volume


def run(segmenter, volume, **options) -> SegmentationResult:
    options = {"uncertainty": True, **options}
    return segment_volume(volume, segmenter, **options)


def test_a_label_is_wrong_as_often_as_the_other_classes_are_right() -> None:
    shares = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1)
    assert wrong_probability(shares.log()).item() == pytest.approx(0.5)
    assert wrong_probability(torch.zeros(4, 1, 1)).item() == pytest.approx(0.75)


def test_a_higher_temperature_makes_more_uncertain() -> None:
    logits = torch.tensor([0.0, 2.0]).view(2, 1, 1)
    expected = 1 / (1 + np.exp(1.0))
    assert wrong_probability(logits, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_slices_with_most_to_correct_come_first() -> None:
    assert first_to_check({3: 1.0, 4: 7.0, 5: 0.0, 6: 7.0}) == [4, 6, 3, 5]


def test_uncertainty_is_asked_for(segmenter, scan) -> None:
    result = run(segmenter(), scan(), uncertainty=False)
    assert result.uncertainty is None and result.uncertainty_by_slice == {}


def test_labels_are_the_same_with_and_without_uncertainty(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    for cleanup in (None, CleanUp(smooth_slices_mm=4.0, largest_component=True)):
        plain = run(tiny, volume, uncertainty=False, cleanup=cleanup).labels
        assert np.array_equal(run(tiny, volume, cleanup=cleanup).labels, plain)


def test_every_voxel_gets_its_probability_of_being_wrong(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    result = run(tiny, volume)
    assert result.uncertainty is not None
    assert result.uncertainty.shape == volume.array.shape
    assert result.uncertainty.dtype == np.float32
    for n in range(5):
        prepared = tiny.backbone.spec.prepare(volume.array[n].astype(np.uint8))
        with torch.inference_mode():
            low_res = tiny.model(tiny.backbone.encode(prepared[None]))
            logits = tiny.backbone.spec.logits_to_slice(low_res[0], (30, 40))
        expected = 1 - logits.softmax(0).amax(0).numpy()
        np.testing.assert_allclose(result.uncertainty[n], expected, atol=1e-5)


@pytest.mark.parametrize("axis", ["axial", "sagittal"])
def test_a_slices_value_is_the_number_of_wrong_pixels_to_expect(segmenter, scan, axis) -> None:
    result = run(segmenter(), scan((12, 20, 9)), axis=axis, slices=[2, 5])
    along = np.moveaxis(result.uncertainty, 0 if axis == "axial" else 2, 0)
    assert list(result.uncertainty_by_slice) == [2, 5]
    for number, value in result.uncertainty_by_slice.items():
        assert value == pytest.approx(along[number].sum(), rel=1e-5)
    assert not along[[0, 1, 3, 4, 6]].any()


def test_a_models_calibration_counts(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    plain = run(tiny, volume)
    card = replace(tiny.card, provenance={CALIBRATION: {"temperature": 3.0}})
    assert card.temperature == 3.0
    soft = run(replace(tiny, card=card), volume)
    assert np.array_equal(soft.labels, plain.labels)
    assert (soft.uncertainty > plain.uncertainty).mean() > 0.99


def test_smoothed_labels_have_the_uncertainty_of_smoothed_probabilities(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    # Over many slices, all get the same probabilities: of their mean.
    smooth = run(tiny, volume, cleanup=CleanUp(smooth_slices_mm=1e4)).uncertainty
    assert np.abs(smooth - smooth[0]).max() < 1e-4
    assert (smooth >= run(tiny, volume).uncertainty.min(0) - 1e-5).all()


def test_nothing_is_told_outside_of_the_region_or_of_slices_that_were_not_done(
    segmenter, scan
) -> None:
    roi = Roi((5, 33), (2, 30), (1, 4))
    calls = []

    def stop(fraction: float, message: str) -> None:
        calls.append(fraction)
        if len(calls) > 2:
            raise Cancelled

    result = run(segmenter(), scan(), roi=roi, progress=stop)
    assert result.cancelled and list(result.uncertainty_by_slice) == result.slices_done
    inside = np.zeros(result.uncertainty.shape, bool)
    inside[roi.kji] = True
    assert not result.uncertainty[~inside].any()
    assert result.uncertainty[1, 2:30, 5:33].all() and not result.uncertainty[3].any()
