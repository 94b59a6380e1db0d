"""Across patients, in the second half of BLO-SAM's steps, weights and prompt learn together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import PROMPT, AdaptedModel
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.methods import cross_fit as cross_fit_module
from SAMAutoSegLib.methods.blo_sam import BLOSAM, BLOSAMSettings
from SAMAutoSegLib.methods.settings import make_settings
from SAMAutoSegLib.methods.trainer import train
from SAMAutoSegLib.methods.training_set import LabeledVolume, TrainingSet

from .conftest import Tune, same

Samples = Callable[..., TrainingSet]
NewModel = Callable[..., AdaptedModel]

# Ten steps: five of the two levels, five of the refit.
SETTINGS = BLOSAMSettings(
    steps=10, batch=1, feature_dropout=0.0, warmup=0, prompt_every=2, average=0.0, patience=0.0
)


@pytest.fixture
def of_two(samples: Samples) -> TrainingSet:
    return samples((0, 4), (2, 6))


def test_weights_and_prompt_then_learn_at_every_step_from_every_slice(
    of_two: TrainingSet, new_model: NewModel
) -> None:
    model = new_model()
    method = BLOSAM(model, of_two, SETTINGS)
    shown: list[int] = []
    model.register_forward_pre_hook(
        lambda _, inputs: shown.extend(
            n for n, own in enumerate(of_two.features) if torch.equal(own, inputs[0][0])
        )
    )
    for number in range(10):
        before = model.learned_state()
        losses = method.step(number)
        after = model.learned_state()
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        refit = number >= 5
        assert set(losses) >= ({"refit_loss"} if refit else {"weights_loss_on_D1"})
        assert (PROMPT in moved) == (refit or number % 2 == 1)
        assert "decoder.mask_tokens.weight" in moved
    assert sorted(shown[-5:-1]) == [0, 1, 2, 3]


def test_its_learning_rate_is_that_of_a_training_of_its_own(
    of_two: TrainingSet, new_model: NewModel
) -> None:
    method = BLOSAM(new_model(), of_two, SETTINGS)
    rates = []
    for number in range(10):
        method.step(number)
        optimizer = method.optimizers()["refit" if number >= 5 else "weights"]
        rates.append(optimizer.param_groups[0]["lr"])
    falling = [SETTINGS.learning_rate * (1 - n / 5) ** 0.9 for n in range(5)]
    assert rates == pytest.approx(falling * 2)


@pytest.mark.parametrize(
    ("refit", "volumes", "steps"),
    [
        ("across", 1, 0),
        ("across", 2, 5),
        ("always", 1, 5),
        ("never", 2, 0),
    ],
)
def test_it_takes_place_where_slices_of_several_volumes_are_learned_from_or_as_asked_for(
    samples: Samples, new_model: NewModel, refit: str, volumes: int, steps: int
) -> None:
    of_them = samples(*[(0, 4), (2, 6)][:volumes])
    settings = make_settings(BLOSAMSettings, {"steps": 10, "refit": refit})
    result = train(BLOSAM, new_model(), of_them, settings)
    assert sum("refit_loss" in entry for entry in result.history) == steps


def test_a_single_step_of_two_volumes_is_one_of_the_levels(
    of_two: TrainingSet, new_model: NewModel
) -> None:
    result = train(BLOSAM, new_model(), of_two, BLOSAMSettings(steps=1))
    assert "weights_loss_on_D1" in result.history[0]


def test_the_published_recipe_has_none(of_two: TrainingSet, new_model: NewModel) -> None:
    settings = make_settings(BLOSAMSettings, {"recipe": "published", "steps": 6}, slices=4)
    result = train(BLOSAM, new_model(), of_two, settings)
    assert all("prompt_loss_on_D2" in entry for entry in result.history)


def test_what_it_has_learned_is_kept_though_the_levels_ended_at_a_lower_loss(
    tune: Tune, labeled: Callable[..., LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BLOSAM.step

    def step(self: BLOSAM, number: int) -> dict[str, float]:
        losses = original(self, number)
        name = next(iter(losses))
        return losses | {name: 2.0 - 0.01 * number if "refit" in name else 0.1}

    monkeypatch.setattr(BLOSAM, "step", step)
    settings = {"steps": 12, "pixel_steps": 0}
    result = tune(labeled((0, 4)), labeled((2, 6), 1), settings=settings).result
    assert 6 < result.best_step <= 12


def test_models_of_the_halves_are_refitted_too(
    tune: Tune, labeled: Callable[..., LabeledVolume], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    original = cross_fit_module.train

    def noted(*arguments: object, **options: object):
        told.append(options["settle"])
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_fit_module, "train", noted)
    four = [labeled((2 * n,), n) for n in range(4)]
    tune(*four, settings={"steps": 12, "pixel_steps": 0}, with_calibration=True)
    assert told == [8, 8]  # six of the levels, and a third of the six of the refit


def test_it_is_gone_on_with_to_the_same_result(
    tune: Tune, labeled: Callable[..., LabeledVolume], tmp_path: Path
) -> None:
    two = labeled((0, 4)), labeled((2, 6), 1)
    settings = {"steps": 10, "pixel_steps": 0}
    checkpoint = tmp_path / "model.training"

    def stop(_: float, message: str) -> None:
        if "step 7 of" in message:
            raise Cancelled("stop")

    tune(*two, settings=settings, checkpoint=checkpoint, progress=stop)
    onward = tune(*two, settings=settings, checkpoint=checkpoint, resume=True)
    at_once = tune(*two, settings=settings)
    assert onward.result.steps == 10
    states = (tuned.adapted.model.learned_state() for tuned in (onward, at_once))
    assert same(*states)


def test_another_word_for_it_is_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="setting refit=yes: expected across or always or"):
        make_settings(BLOSAMSettings, {"refit": "yes"})
