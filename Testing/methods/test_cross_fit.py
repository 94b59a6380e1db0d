import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import CALIBRATION
from SAMAutoSegLib.errors import Cancelled
from SAMAutoSegLib.methods import cross_fit as module
from SAMAutoSegLib.methods.cross_fit import (
    Opinion,
    _some_pixels,
    cross_fit,
    fit_temperature,
)
from SAMAutoSegLib.methods.joint import Joint
from SAMAutoSegLib.methods.method import sample_logits
from SAMAutoSegLib.methods.settings import Settings

SHORT = {"method": "joint", "settings": {"steps": 2, "views": 1}}


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(true: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 200, 300, generator=generator)
    shares = (logits / true).softmax(0).flatten(1).T
    targets = torch.multinomial(shares, 1, generator=generator).view(200, 300)
    assert fit_temperature([logits], [targets]) == pytest.approx(true, rel=0.03)


def test_pixels_that_nobody_knows_do_not_count() -> None:
    logits = torch.tensor([0.0, 2.0]).view(2, 1, 1).expand(2, 10, 10)
    targets = torch.ones(10, 10, dtype=torch.long)
    targets[:2] = 0
    expected = fit_temperature([logits], [targets])
    wider = torch.nn.functional.pad(targets, (0, 5), value=255)
    assert fit_temperature([logits[..., :1].expand(2, 10, 15)], [wider]) == expected
    assert expected == pytest.approx(2 / np.log(4), rel=0.02)
    assert fit_temperature([logits], [torch.full((10, 10), 255)]) == 1.0


def test_of_a_large_slice_as_many_pixels_as_needed_are_kept() -> None:
    logits, targets = torch.zeros(3, 512, 512), torch.zeros(512, 512, dtype=torch.uint8)
    targets[:256] = 255
    some, numbers = _some_pixels(logits, targets)
    assert some.shape == (3, 2**16) and numbers.shape == (2**16,) and not numbers.any()


def test_every_slice_is_judged_by_a_model_that_did_not_learn_from_it(
    samples, new_model, tiny_backbone, monkeypatch
) -> None:
    whole, model, learned = samples((0, 2, 4, 6)), new_model(), []

    def noted(self, model, samples, settings) -> None:
        learned.append(
            [
                n
                for n, own in enumerate(whole.features)
                if (own == samples.features).flatten(1).all(1).any()
            ]
        )
        original(self, model, samples, settings)

    original = Joint.__init__
    monkeypatch.setattr(Joint, "__init__", noted)
    before = model.learned_state()
    found = cross_fit(Joint, model, whole, Settings(steps=2), tiny_backbone())
    assert found is not None and found["slices"] == 4 and found["temperature"] > 0
    assert sorted(map(tuple, learned)) == [(0, 2), (1, 3)]
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.learned_state().items())


def test_of_several_volumes_each_is_judged_by_models_that_learned_from_others(
    samples, new_model, tiny_backbone, monkeypatch
) -> None:
    learned = []
    original = Joint.__init__

    def noted(self, model, samples, settings) -> None:
        learned.append(set(samples.owners))
        original(self, model, samples, settings)

    monkeypatch.setattr(Joint, "__init__", noted)
    whole = samples((0, 4), (2, 6), (1, 5))
    assert whole.owners == (0, 0, 1, 1, 2, 2)
    cross_fit(Joint, new_model(), whole, Settings(steps=2), tiny_backbone())
    assert learned == [{1}, {0, 2}]


def test_the_temperature_is_that_of_the_weight_in_the_end(
    samples, new_model, tiny_backbone, monkeypatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (4000,), generator=generator)
    truth = torch.nn.functional.one_hot(classes, 3).T
    sure = (2 * truth + 2 * torch.randn(3, 4000, generator=generator)).log_softmax(0)
    unsure = torch.zeros(3, 4000).log_softmax(0)
    monkeypatch.setattr(module, "_opinions", lambda *_: [Opinion(unsure, sure, classes)])
    arguments = Joint, new_model(pixel_side=64), samples((0, 2)), Settings(), tiny_backbone()
    one, more = cross_fit(*arguments), cross_fit(*arguments, in_the_end=lambda weight: 8 * weight)
    assert one is not None and more is not None and more["temperature"] > 2 * one["temperature"]


def test_a_model_that_goes_on_from_another_is_not_calibrated(tune, labeled) -> None:
    first = tune(labeled())
    second = tune(labeled((1, 7)), start=first.adapted, with_calibration=True)
    assert second.adapted.card.provenance[CALIBRATION] is None
    assert any(note.startswith("no calibration") for note in second.result.notes)


def test_one_group_of_neighbors_cannot_be_split(samples, new_model, tiny_backbone) -> None:
    neighbors = samples((3, 4, 5))
    assert cross_fit(Joint, new_model(), neighbors, Settings(steps=2), tiny_backbone()) is None


def test_a_card_holds_the_temperature_only_if_it_was_asked_for(tune, labeled) -> None:
    assert tune(labeled(), **SHORT).adapted.card.temperature == 1.0
    asked = tune(labeled(), with_calibration=True, **SHORT).adapted.card
    assert asked.temperature == asked.provenance[CALIBRATION]["temperature"] != 1.0


def test_calibrating_is_told_and_can_be_cancelled_without_losing_the_model(tune, labeled) -> None:
    told: list[tuple[float, str]] = []

    def progress(fraction: float, message: str) -> None:
        told.append((fraction, message))
        if cancelled and message.startswith("checking"):
            raise Cancelled

    cancelled = False
    options = {"with_calibration": True, "progress": progress, **SHORT}
    whole = tune(labeled(), **options)
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told)
    assert sum(message.startswith("checking on the other half: ") for _, message in told) == 4
    assert told[-1][0] == 1.0
    cancelled = True
    kept = tune(labeled(), **options)
    assert kept.adapted.card.provenance[CALIBRATION] is None and kept.result.stopped == "cancelled"
    assert any("no calibration: cancelled" in note for note in kept.result.notes)
    state = whole.adapted.model.learned_state()
    assert all(torch.equal(v, state[n]) for n, v in kept.adapted.model.learned_state().items())


def test_a_pixel_branch_that_no_step_trains_has_no_say_in_it(
    samples, new_model, tiny_backbone
) -> None:
    """A training without its steps that goes on from a model with a branch."""
    whole, settings = samples((0, 2, 4, 6)), Settings(steps=2)
    plain, beside = (
        cross_fit(Joint, new_model(pixel_side=side), whole, settings, tiny_backbone())
        for side in (0, 64)
    )
    assert plain == beside


@pytest.mark.parametrize(("sam", "branch", "best"), [(0.0, 3.0, 2.0), (3.0, 0.0, 0.25)])
def test_the_branch_gets_the_say_that_it_deserves(
    sam: float, branch: float, best: float, samples, new_model, tiny_backbone, monkeypatch
) -> None:
    """One of the two knows the classes, the other guesses as surely."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(3, (4000,), generator=generator)
    truth = torch.nn.functional.one_hot(classes, 3).T

    def shares(knowledge: float) -> torch.Tensor:
        noise = 2 * torch.randn(3, 4000, generator=generator)
        return (knowledge * truth + noise).log_softmax(0)

    said = [Opinion(shares(sam), shares(branch), classes)]
    monkeypatch.setattr(module, "_opinions", lambda *_: said)
    model, backbone = new_model(pixel_side=64), tiny_backbone()
    arguments = (Joint, model, samples((0, 2)), Settings(), backbone)
    found = cross_fit(*arguments, choose_weight=True)
    assert found is not None and found["pixel_weight"] == best
    kept = cross_fit(*arguments)
    assert kept is not None and "pixel_weight" not in kept


def test_opinions_are_those_of_the_model_and_its_branch(samples, new_model, tiny_backbone) -> None:
    whole, model, backbone = samples((0, 2)), new_model(pixel_side=64).eval(), tiny_backbone()
    with torch.inference_mode():
        said = module._opinion(model, whole, 1, backbone)
        both = sample_logits(model, whole, 1, backbone.spec)
    assert torch.equal(said.classes, torch.from_numpy(whole.references[1]).flatten())
    agreed = said.agreed(model.adaptation.pixel_weight)
    assert torch.allclose(agreed, both.flatten(1), atol=1e-5)
    assert not torch.allclose(said.agreed(2.0), both.flatten(1), atol=1e-2)
