from dataclasses import replace

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.corrected import CorrectedShapes, CorrectedSlices
from SAMAutoSegLib.segment.volume import segment_volume

SIDE = 64


def disc(radius: float, row: float = 32, column: float = 32, value: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.where(np.hypot(rows - row, columns - column) < radius, value, 0).astype(np.uint8)


def shapes(classes: dict[int, np.ndarray], count: int = 2) -> CorrectedShapes:
    return CorrectedShapes(classes, count, (1.0, 1.0), 2.0)


def found(some: CorrectedShapes, number: int) -> np.ndarray:
    return some.log_shares(number).argmax(0)


def radius_of(mask: np.ndarray) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def test_a_contour_passes_over_from_one_corrected_slice_into_the_next() -> None:
    cone = shapes({0: disc(8), 8: disc(24)})
    assert [radius_of(found(cone, n) == 1) for n in (2, 4, 6)] == pytest.approx([12, 16, 20], 0.05)
    leaning = shapes({0: disc(12, column=28), 4: disc(12, column=36)})
    center = np.argwhere(found(leaning, 2) == 1).mean(0)
    assert center == pytest.approx([32, 32], abs=0.5)


def test_beyond_the_last_corrected_slice_its_shape_goes_on_less_and_less_sure() -> None:
    some = shapes({3: disc(10), 5: disc(12)})
    assert 8 < radius_of(found(some, 9) == 1) < radius_of(found(some, 6) == 1) < 12
    sure = [np.exp(some.log_shares(n)[1, 32, 32]) for n in (5, 7, 11, 30)]
    assert sure == sorted(sure, reverse=True) and sure[-1] < 0.75


def test_a_structure_of_one_slice_ends_half_way_to_the_next_without_it() -> None:
    some = shapes({0: disc(20), 8: np.zeros((SIDE, SIDE), np.uint8)})
    assert [bool((found(some, n) == 1).any()) for n in (1, 3, 5, 7)] == [True, True, False, False]


def test_all_structures_are_told_apart() -> None:
    both = disc(10, column=16) + disc(10, column=48, value=2)
    assert np.array_equal(found(shapes({0: both, 6: both}, 3), 3), both)


def test_the_error_is_measured_by_leaving_each_slice_out() -> None:
    # Straight on: foretold exactly, but for the ends, which no slice beyond speaks for.
    growing = shapes({n: disc(8 + n) for n in range(0, 13, 2)})
    assert growing.error < 0.4
    restless = shapes({n: disc(20 if n % 4 else 8) for n in range(0, 13, 2)})
    assert restless.error > 3 * growing.error
    # Unequal pixels: 12 pixels of error in 4 mm of way.
    assert restless.error == pytest.approx(12 / 4, rel=0.1)


def test_the_less_foreseeable_the_less_they_say() -> None:
    steady = shapes({n: disc(14) for n in (0, 4, 8)})
    restless = shapes({0: disc(14), 4: disc(24), 8: disc(14)})
    # Four pixels inside of the contour that each foretells.
    sure, unsure = (
        np.exp(s.log_shares(6)[1, 32, 32 + r]) for s, r in ((steady, 10), (restless, 15))
    )
    assert sure > 0.95 > 0.8 > unsure


def test_a_slice_that_a_structure_fills_does_not_silence_the_others() -> None:
    full = np.ones((SIDE, SIDE), np.uint8)
    some = shapes({0: disc(10), 4: full, 8: disc(10)})
    assert some.error < 10  # mm for each mm of way; its own edge is no contour to be foretold
    areas = [int(found(some, n).sum()) for n in (1, 2, 3)]
    assert (disc(10) > 0).sum() < areas[0] < areas[1] < areas[2] < full.size


def test_one_slice_is_enough() -> None:
    some = shapes({4: disc(10)})
    assert some.error == 0.5
    assert 8 < radius_of(found(some, 5) == 1) < 10


def test_pixels_are_measured_in_millimeters() -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    away = np.hypot(rows - 32, 3 * (columns - 32))
    round_ = CorrectedShapes({0: away < 12, 4: away < 28}, 2, (1.0, 3.0), 2.0)
    middle = round_.log_shares(2).argmax(0) == 1
    assert np.ptp(np.flatnonzero(middle[:, 32])) == pytest.approx(40, abs=2)
    assert 3 * np.ptp(np.flatnonzero(middle[32])) == pytest.approx(40, abs=6)


def test_what_no_corrected_slice_shows_is_left_to_the_model() -> None:
    some = shapes({0: disc(10), 6: disc(10)}, count=3)
    logits = torch.zeros(3, SIDE, SIDE)
    logits[2, :8] = 4.0  # far from the disc the model finds structure 2, and 0 in all the rest
    logits[0, 8:] = 4.0
    labels = some.agreed(3, logits).argmax(0)
    assert (labels[:8] == 2).all()


def test_a_sure_model_finds_what_no_neighbor_has_at_that_place() -> None:
    some = shapes({0: disc(10, column=16), 6: disc(10, column=16)})
    logits = torch.zeros(2, SIDE, SIDE)
    logits[1, 20:40, 44:60] = 12.0
    logits[0] = 4.0 - logits[1]
    labels = some.agreed(3, logits).argmax(0).numpy()
    assert labels[30, 50] == 1


def test_an_agreement_is_no_surer_than_the_two_are_on_average() -> None:
    some = shapes({0: disc(10), 6: disc(10)})
    logits = torch.full((2, SIDE, SIDE), 0.5)
    logits[1] = torch.where(torch.from_numpy(disc(10)) > 0, 2.0, -1.0)
    agreed = some.agreed(3, logits).softmax(0)[1, 32, 32]
    parts = (logits.softmax(0)[1, 32, 32], np.exp(some.log_shares(3)[1, 32, 32]))
    assert min(parts) < agreed < max(parts)


class TestInAVolume:
    """`segment_volume` with corrected slices; structures are labeled 3 and 7."""

    @staticmethod
    def run(segmenter, volume, **options):
        return segment_volume(volume, segmenter(), **options)

    @staticmethod
    def corrected(volume, slices=(1, 3)) -> CorrectedSlices:
        labels = np.zeros(volume.array.shape, np.uint8)
        labels[:, 8:20, 5:15] = 3
        labels[:, 8:20, 22:36] = 7
        labels[:, :2] = 9  # a structure that the model does not know
        return CorrectedSlices(labels, slices)

    @pytest.mark.parametrize("cleanup", [None, CleanUp(True, 1e6, 4.0)])
    def test_corrected_slices_come_out_as_they_are(self, segmenter, scan, cleanup) -> None:
        volume = scan()
        told: dict[int, np.ndarray] = {}
        result = self.run(
            segmenter,
            volume,
            corrected=self.corrected(volume),
            cleanup=cleanup,
            uncertainty=True,
            on_slice=lambda number, labels: told.setdefault(number, labels.copy()),
        )
        expected = self.corrected(volume).labels.copy()
        expected[expected == 9] = 0
        for n in (1, 3):
            assert np.array_equal(result.labels[n], expected[n])
            assert np.array_equal(told[n], expected[n])
            assert result.uncertainty_by_slice[n] == 0 == result.uncertainty[n].max()
        assert result.slices_done == [0, 1, 2, 3, 4] and result.uncertainty[2].max() > 0

    def test_the_slices_between_follow(self, segmenter, scan) -> None:
        volume = scan()
        alone = self.run(segmenter, volume).labels
        result = self.run(segmenter, volume, corrected=self.corrected(volume)).labels
        truth = np.where(self.corrected(volume).labels == 9, 0, self.corrected(volume).labels)
        for n in (0, 2, 4):
            assert (result[n] == truth[n]).mean() > (alone[n] == truth[n]).mean() + 0.1

    def test_only_the_named_slices_speak(self, segmenter, scan) -> None:
        volume = scan()
        given = self.corrected(volume)
        other = given.labels.copy()
        other[[0, 2, 4]] = 7
        results = [
            self.run(segmenter, volume, corrected=replace(given, labels=labels)).labels
            for labels in (given.labels, other)
        ]
        assert np.array_equal(*results)

    def test_inside_of_a_region_too(self, segmenter, scan) -> None:
        volume = scan()
        roi = Roi((4, 38), (3, 27), (1, 4))
        result = self.run(segmenter, volume, corrected=self.corrected(volume), roi=roi)
        assert result.slices_done == [1, 2, 3]
        inside = self.corrected(volume).labels[1, 3:27, 4:38]
        assert np.array_equal(result.labels[1, 3:27, 4:38], inside)
        assert not result.labels[1, :, :4].any()

    def test_all_slices_corrected_need_no_model(self, segmenter, scan) -> None:
        volume = scan()
        result = self.run(segmenter, volume, corrected=self.corrected(volume, range(5)))
        assert result.slices_done == [0, 1, 2, 3, 4]
        assert set(np.unique(result.labels)) == {0, 3, 7}

    def test_cancelling_keeps_what_is_done_and_no_more(self, segmenter, scan) -> None:
        volume = scan()

        def cancel(fraction: float, message: str) -> None:
            if fraction > 0:
                raise Cancelled("cancelled")

        given = self.corrected(volume, (0, 3))
        result = self.run(segmenter, volume, corrected=given, batch=1, progress=cancel)
        assert result.cancelled and result.slices_done == [0, 1]

    def test_slices_and_labels_that_do_not_fit_are_refused(self, segmenter, scan) -> None:
        volume = scan()
        with pytest.raises(SAMAutoSegError, match="slice 9 is out of range"):
            self.run(segmenter, volume, corrected=self.corrected(volume, (1, 9)))
        small = CorrectedSlices(np.zeros((5, 30, 39), np.uint8), (1,))
        with pytest.raises(SAMAutoSegError, match="expected labels on the image's grid"):
            self.run(segmenter, volume, corrected=small)
        with pytest.raises(SAMAutoSegError, match="no corrected slice"):
            CorrectedSlices(small.labels, ())
