"""Across patients a new pixel branch learns from slices without labels, and never from others."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods import branch_teaching as module
from SAMAutoSegLib.methods.branch_teaching import slices_to_teach_from
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.pixel_training import PixelSlice, PixelTraining
from SAMAutoSegLib.methods.training_set import LabeledVolume

from .conftest import Tune, same

Labeled = Callable[..., LabeledVolume]

# As many as it takes to draw each of the fourteen other slices.
STEPS = {"steps": 8, "views": 1, "patience": 0, "average": 0.0, "pixel_steps": 1}


@pytest.fixture
def two(labeled: Labeled) -> list[LabeledVolume]:
    return [labeled((0, 4), 0), labeled((2, 6), 1)]


def with_slice(volume: LabeledVolume, number: int, value: int) -> LabeledVolume:
    """The volume with one slice of its image painted over."""
    array = volume.image.array.copy()
    array[number] = value
    return replace(volume, image=replace(volume.image, array=array))


def states(tuned) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the SAM and what the branch learned."""
    learned = tuned.adapted.model.learned_state()
    branch = {name for name in learned if name.startswith("pixels.")}
    sam = {name: value for name, value in learned.items() if name not in branch}
    return sam, {name: learned[name] for name in branch}


def test_neither_labeled_nor_held_out_slices_are_among_them(
    two: list[LabeledVolume], labeled: Labeled
) -> None:
    held_out = [labeled((1, 8), 1)]  # of the second volume, read once more
    assert slices_to_teach_from(two, held_out, "axial") == [
        (1, 2, 3, 5, 6, 7, 8),
        (0, 3, 4, 5, 7),
    ]


def test_spared_slices_may_be_held_out_of_a_later_training(
    tune: Tune, two: list[LabeledVolume], labeled: Labeled
) -> None:
    assert slices_to_teach_from(two, [], "axial", spare_every=4)[1] == (0, 1, 3, 4, 5, 7, 8)
    settings = {**STEPS, "steps": 1, "spare_every": 4}
    former = tune(*two, settings=settings)
    later = [replace(two[0], slices=(0, 3, 4)), two[1]]
    held_out = [replace(two[0], slices=(2, 7))]
    tuned = tune(*later, start=former.adapted, held_out=held_out, settings=settings)
    assert tuned.adapted.card.provenance["held_out"][0]["slices"] == [2]
    told = "slice 7 of scan0 is not scored, because the former model learned from it"
    assert told in tuned.result.notes


def test_of_many_slices_some_are_taken_all_over_each_volume(
    two: list[LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TEACHING_SLICES", 7)
    assert slices_to_teach_from(two, [], "axial") == [(1, 3, 6, 8), (1, 4, 7)]


def test_the_branch_learns_from_them_and_the_sam_does_not(
    tune: Tune, two: list[LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_PROBABILITY", 0.0)  # after so few steps nothing is sure
    taught, plain = (
        tune(*two, settings={**STEPS, "teach_branch": teach}) for teach in (True, False)
    )
    assert same(states(taught)[0], states(plain)[0])
    assert not same(states(taught)[1], states(plain)[1])
    images = taught.adapted.card.provenance["images"]
    assert images[0]["unlabeled"] == [1, 2, 3, 5, 6, 7, 8] and images[1]["slices"] == [2, 6]
    assert "unlabeled" not in plain.adapted.card.provenance["images"][0]
    # What it shows there matters: with other voxels in one of these slices it learns otherwise.
    other = tune(with_slice(two[0], 5, 110), two[1], settings=STEPS)
    assert not same(states(other)[1], states(taught)[1])


def test_half_of_every_batch_is_labeled(
    tune: Tune, two: list[LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[bool]] = []
    original = PixelTraining.step

    def noted(self: PixelTraining, number: int, slices: list[PixelSlice], rate: float) -> float:
        batches.append([bool((one.reference != IGNORED).any()) for one in slices])
        return original(self, number, slices, rate)

    monkeypatch.setattr(PixelTraining, "step", noted)
    monkeypatch.setattr(module, "_guessed", lambda branch, seen, sam: seen)  # nothing is sure
    tune(*two, settings={**STEPS, "steps": 3, "pixel_steps": 2, "batch": 2})
    assert batches[:6] == [[True, True]] * 6  # beside the SAM
    assert batches[6:] == [[True, True, False, False]] * 12  # in two rounds of as many


def test_a_held_out_slice_teaches_nothing(
    tune: Tune, two: list[LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST_PROBABILITY", 0.0)

    def learned(value: int, held_out: bool = True) -> dict[str, torch.Tensor]:
        first = with_slice(two[0], 7, value)
        tests = [replace(first, slices=(7,))] if held_out else []
        return states(tune(first, two[1], held_out=tests, settings=STEPS))[1]

    assert same(learned(110), learned(200))
    assert not same(learned(110, held_out=False), learned(200, held_out=False))


def test_what_sam_and_branch_are_not_sure_of_is_left_out(
    tune: Tune, two: list[LabeledVolume]
) -> None:
    branch = tune(*two, settings=STEPS).adapted.model.pixels
    assert branch is not None
    branch.weight = 1e-6  # so that only the SAM counts
    shares = torch.tensor([0.9, 0.05, 0.05]), torch.tensor([0.5, 0.4, 0.1])
    sam = torch.stack([shares[0], shares[1], shares[0].flip(0)], 1).log()[:, None].expand(3, 16, 3)
    image = np.full((16, 3), 90, np.uint8)
    seen = PixelSlice(image, np.full_like(image, IGNORED), (1.0, 1.0))
    guessed = module._guessed(branch, seen, sam.half())
    assert guessed.reference[0].tolist() == [0, IGNORED, 2]


def test_it_has_more_to_say_then_unless_that_was_asked_for(
    tune: Tune, two: list[LabeledVolume]
) -> None:
    def weight(**settings: object) -> float:
        tuned = tune(*two, settings={**STEPS, "steps": 1, **settings})
        return tuned.adapted.card.adaptation.pixel_weight

    assert (weight(), weight(teach_branch=False), weight(pixel_weight=0.3)) == (2.0, 0.5, 0.3)


def test_in_one_volume_or_without_other_slices_nothing_is_taught(
    tune: Tune, labeled: Labeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("SAMAutoSegLib.methods.branch_stages.teach_branch", None)
    whole = tuple(range(9))
    tune(labeled((0, 4)), settings={**STEPS, "steps": 1})
    tune(labeled(whole), labeled(whole, 1), settings={**STEPS, "steps": 1, "pixel_weight": 1.0})


def test_cancelled_in_the_middle_leaves_the_branch_as_it_was(
    tune: Tune, two: list[LabeledVolume]
) -> None:
    def stop_in_round_two(_: float, message: str) -> None:
        if "round 2" in message:
            raise Cancelled("stop")

    stopped = tune(*two, settings=STEPS, progress=stop_in_round_two)
    plain = tune(*two, settings={**STEPS, "teach_branch": False})
    assert same(states(stopped)[1], states(plain)[1])
    assert stopped.adapted.card.adaptation.pixel_weight == 0.5
    assert "cancelled before the pixel branch learned from other slices" in stopped.result.notes
    assert stopped.result.stopped == "cancelled"
    assert "unlabeled" not in stopped.adapted.card.provenance["images"][0]


def test_cancelled_there_it_can_be_gone_on_with(
    tune: Tune, two: list[LabeledVolume], tmp_path: Path
) -> None:
    def stop(_: float, message: str) -> None:
        if "round 1" in message:
            raise Cancelled("stop")

    checkpoint = tmp_path / "model.training"
    tune(*two, settings=STEPS, checkpoint=checkpoint, progress=stop)
    went_on = tune(*two, settings=STEPS, checkpoint=checkpoint, resume=True)
    at_once = tune(*two, settings=STEPS)
    assert all(same(*pair) for pair in zip(states(went_on), states(at_once), strict=True))


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SAMAutoSegError("no number")])
def test_what_was_trained_is_not_lost_where_it_fails(
    tune: Tune, two: list[LabeledVolume], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "_taught", fail)
    kept = tune(*two, settings=STEPS)
    plain = tune(*two, settings={**STEPS, "teach_branch": False})
    assert all(same(*pair) for pair in zip(states(kept), states(plain), strict=True))
    note = f"the pixel branch could not learn from other slices: {error}"
    assert note in kept.result.notes and kept.result.stopped != "cancelled"


def test_the_score_is_of_the_branch_that_is_left(
    tune: Tune, two: list[LabeledVolume], labeled: Labeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def scorer(*_: object) -> Callable:
        def score(model) -> dict[str, float]:
            scored.append(float(model.pixels.output.bias.detach().sum()))
            return {"held_out_dice": scored[-1]}

        return score

    monkeypatch.setattr("SAMAutoSegLib.methods.finetune.held_out_scorer", scorer)
    tuned = tune(*two, held_out=[labeled((1,), 3)], settings=STEPS)
    assert tuned.adapted.model.pixels is not None
    left = float(tuned.adapted.model.pixels.output.bias.detach().sum())
    assert tuned.result.score["held_out_dice"] == left
