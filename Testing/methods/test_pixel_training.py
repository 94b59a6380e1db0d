"""The pixel branch learns beside a method, and neither disturbs the other."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION
from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.methods import branch_stages
from SAMAutoSegLib.methods import finetune as module
from SAMAutoSegLib.methods.blo_sam import BLOSAM
from SAMAutoSegLib.methods.branch_stages import usual_weight
from SAMAutoSegLib.methods.cross_fit import PIXEL_WEIGHTS
from SAMAutoSegLib.methods.method import sample_logits
from SAMAutoSegLib.methods.pixel_training import PixelSlice, reduced
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet, low_res_target
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.segment.volume import segment_volume

from .conftest import Tune, same

STEPS = {"steps": 6, "views": 1, "patience": 0, "average": 0.0}


@pytest.fixture
def learn(tune: Tune, labeled: Callable[..., LabeledVolume]) -> Tune:
    """Trains on four slices unless told otherwise, with the settings that are given."""

    def run(
        slices: tuple[int, ...] = (0, 2, 4, 6), start: FineTuned | None = None, **settings: object
    ) -> FineTuned:
        given = {name: settings.pop(name) for name in ("adaptation",) if name in settings}
        return tune(
            labeled(slices),
            start=start.adapted if start else None,
            settings={**STEPS, **settings},
            **given,
        )

    return run


def sam_state(tuned: FineTuned) -> dict[str, torch.Tensor]:
    state = tuned.adapted.model.learned_state()
    return {name: value for name, value in state.items() if not name.startswith("pixels.")}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bits where other programs take a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_sam_learns_the_same_with_and_without_it(learn: Tune) -> None:
    plain, beside = sam_state(learn(pixel_steps=0)), sam_state(learn(pixel_steps=2))
    assert plain.keys() == beside.keys()
    assert all(torch.equal(value, beside[name]) for name, value in plain.items())


def test_a_method_can_stop_a_training_that_has_a_branch(
    learn: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enough(self: BLOSAM, history: list[dict[str, float]]) -> str:
        return "enough" if len(history) == 2 else ""

    monkeypatch.setattr(BLOSAM, "stop_reason", enough, raising=False)
    monkeypatch.setattr(BLOSAM, "concluded", lambda self, model: ["judged"], raising=False)
    result = learn(pixel_steps=1).result
    assert (result.stopped, result.steps) == ("enough", 2) and "judged" in result.notes


def test_with_several_volumes_it_has_as_much_to_say_as_suits_held_out_halves(
    tune: Tune, labeled: Callable[..., LabeledVolume]
) -> None:
    def learned(count: int, slices: tuple[int, ...] = (0, 2, 4, 6), **settings: float) -> FineTuned:
        volumes = [labeled(slices, seed) for seed in range(count)]
        return tune(*volumes, settings={**STEPS, "steps": 3, "teach_branch": False, **settings})

    found = learned(2).adapted.card
    tried = found.provenance[CALIBRATION]
    assert found.adaptation.pixel_weight == tried["pixel_weight"] in PIXEL_WEIGHTS
    assert tried["slices"] == 8 and found.temperature == tried["temperature"]
    # One volume, too few slices, or a weight that is asked for: nothing is tried.
    for untried, weight in (
        (learned(1), 1.0),
        (learned(2, (0, 2, 4)), 0.5),
        (learned(2, pixel_weight=0.25), 0.25),
    ):
        assert untried.adapted.card.adaptation.pixel_weight == weight
        assert untried.adapted.card.provenance[CALIBRATION] is None


def test_across_patients_a_branch_that_sees_less_than_all_pixels_has_less_to_say(
    samples: Callable[..., TrainingSet],
) -> None:
    shown = samples((0, 4))  # of 48 x 40 pixels
    assert [usual_weight(shown, side, True) for side in (64, 32)] == [0.5, 0.25]
    assert usual_weight(shown, 32, False) == 1.0


def test_the_score_is_of_the_model_with_the_weight_that_was_found(
    tune: Tune, labeled: Callable[..., LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def scorer(*_: object) -> Callable[[AdaptedModel], dict[str, float]]:
        def score(model: AdaptedModel) -> dict[str, float]:
            scored.append(model.adaptation.pixel_weight)
            return {"held_out_dice": scored[-1]}

        return score

    monkeypatch.setattr(module, "held_out_scorer", scorer)
    monkeypatch.setattr(branch_stages, "cross_fit", lambda *_, **__: {"pixel_weight": 2.0})
    volumes = [labeled((0, 2, 4, 6), seed) for seed in (0, 1)]
    held_out = [labeled((1,), 3)]
    settings = {**STEPS, "steps": 2, "teach_branch": False}
    tuned = tune(*volumes, held_out=held_out, settings=settings)
    assert scored[0] == 0.5 and scored[-1] == 2.0
    assert tuned.adapted.card.provenance["held_out_dice"] == 2.0


def test_how_much_it_has_to_say_can_be_set(learn: Tune) -> None:
    tuned = learn(pixel_weight=2.0, steps=1)
    assert tuned.adapted.card.adaptation.pixel_weight == 2.0 == tuned.adapted.model.pixels.weight


def test_the_published_recipe_has_none(learn: Tune) -> None:
    tuned = learn(recipe="published", steps=2)
    assert tuned.adapted.model.pixels is None and tuned.adapted.card.adaptation.pixel_side == 0


def test_it_learns_discs_and_bars_that_it_has_not_seen(
    learn: Tune, samples: Callable[..., TrainingSet]
) -> None:
    tuned = learn(steps=60)
    model = tuned.adapted.model
    assert model.pixels is not None and model.pixels.spec.side == 64
    assert tuned.result.history[-1]["pixel_loss"] < 0.3 * tuned.result.history[0]["pixel_loss"]
    assert branch_dice(model, samples((1, 5, 7), first_seed=9)) > 0.8


def branch_dice(model, samples: TrainingSet) -> float:  # type: ignore[no-untyped-def]
    """Of the branch alone: the SAM says nothing."""
    found, wanted = [], []
    nothing = torch.zeros(3, 32, 32)
    with torch.inference_mode():
        for image, reference in zip(samples.images, samples.references, strict=True):
            logits = model.slice_logits(nothing, image, model.pixels.spec)
            found.append(logits.argmax(0).numpy().ravel())
            wanted.append(reference.ravel())
    a, b = np.concatenate(found), np.concatenate(wanted)
    return min(2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum()) for n in (1, 2))


def test_a_segmentation_and_a_held_out_score_hear_it_alike(
    learn: Tune,
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    samples: Callable[..., TrainingSet],
) -> None:
    tuned, backbone, volume = learn(steps=20), tiny_backbone(), labeled((0, 3))
    result = segment_volume(volume.image, tuned.adapted)
    encoded = samples(volume.slices)
    values = np.array([0, 3, 7])
    for n, number in enumerate(volume.slices):
        with torch.inference_mode():
            logits = sample_logits(tuned.adapted.model, encoded, n, backbone.spec)
        shown = result.labels[number]
        assert np.array_equal(values[logits.argmax(0).numpy()], shown)
    tuned.adapted.model.pixels = None
    alone = segment_volume(volume.image, tuned.adapted)
    assert not np.array_equal(alone.labels, result.labels)


def branch_of(tuned: FineTuned) -> dict[str, torch.Tensor]:
    state = tuned.adapted.model.learned_state()
    return {name: value for name, value in state.items() if name.startswith("pixels.")}


def test_a_training_goes_on_with_the_branch_of_its_start(learn: Tune) -> None:
    former = learn()
    assert former.adapted.model.pixels is not None
    onward = learn(start=former, pixel_steps=0)
    assert same(branch_of(former), branch_of(onward))
    assert "pixel_loss" in learn(start=former).result.history[-1]


def test_a_branch_that_knows_more_slices_is_kept_as_it_is_unless_asked_for(learn: Tune) -> None:
    former = learn((0, 1, 2, 3, 4, 6))
    onward = learn(start=former)
    assert same(branch_of(former), branch_of(onward))
    assert onward.adapted.card.settings["pixel_steps"] == 0
    # It knows them still, though the last training had four.
    assert same(branch_of(former), branch_of(learn((1, 2, 3, 4, 5), start=onward)))
    asked = learn(start=former, pixel_steps=1)
    assert not same(branch_of(former), branch_of(asked))


def test_a_model_of_more_slices_without_it_gets_none_in_a_later_training(learn: Tune) -> None:
    """A net that knows a few slices only would speak into a model that knows many."""
    former = learn((0, 1, 2, 3, 4, 6), pixel_steps=0)
    later = learn(start=former)
    assert later.adapted.model.pixels is None and "pixel_loss" not in later.result.history[-1]
    assert later.result.notes == former.result.notes


def test_a_model_of_no_more_slices_gets_one_in_a_later_training(learn: Tune) -> None:
    for slices in ((0, 2, 4), (0, 2, 4, 6)):
        former = learn(slices, pixel_steps=0)
        later = learn(start=former, learning_rate=1e-9)
        assert later.adapted.model.pixels is not None
        # The SAM goes on from where it was.
        state, now = former.adapted.model.learned_state(), later.adapted.model.learned_state()
        assert all(torch.allclose(now[name], state[name], atol=1e-4) for name in state)


def test_no_branch_stays_that_nothing_trained(learn: Tune) -> None:
    """Neither of an adaptation that was asked for nor of a start that cannot be gone on from."""
    asked = learn(pixel_steps=0, adaptation={"pixel_side": 64})
    assert asked.adapted.model.pixels is None
    former = learn(adaptation={"lora_rank": 2})
    anew = learn(start=former, pixel_steps=0, adaptation={"lora_rank": 4})
    assert anew.adapted.model.pixels is None and "started anew" in anew.result.notes[-1]


@pytest.mark.parametrize("aspect", ["pixel", "stretch"])
def test_a_large_slice_is_learned_from_at_the_size_that_the_branch_sees(aspect: str) -> None:
    spec = InputSpec(side=64, aspect=aspect)  # type: ignore[arg-type]
    reference = np.zeros((300, 200), np.uint8)
    reference[100:200, 50:150] = 1
    image = reference * 200
    seen = reduced(PixelSlice(image, reference, (1.0, 2.0)), spec)
    small, labels, spacing = seen.image, seen.reference, seen.spacing
    assert small.shape == labels.shape and max(labels.shape) == 64
    assert spacing[0] * labels.shape[0] == pytest.approx(300)
    assert spacing[1] * labels.shape[1] == pytest.approx(400)
    whole, shown = (low_res_target(either, spec, 64) for either in (reference, labels))
    assert (whole != shown).float().mean() < 0.03  # half a pixel along the border
    assert np.abs(small[labels == 1].astype(int) - 200).mean() < 20


def test_a_small_slice_is_learned_from_as_it_is() -> None:
    image = np.zeros((40, 64), np.uint8)
    whole = PixelSlice(image, image, (0.5, 0.5))
    assert reduced(whole, InputSpec(side=64)) is whole
