"""What a step of SAM-SP trains, on which prompts."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.self_prompts import PromptKind, log_odds
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.sam_sp import SAMSP, SAMSPSettings, distillation_loss, shaken
from SAMAutoSegLib.methods.training_set import TrainingSet

from .conftest import QUICK, Tune

SETTINGS = SAMSPSettings(steps=10, batch=2, feature_dropout=0.0, prompts=3)


@pytest.fixture
def model(new_model: Callable[..., AdaptedModel]) -> AdaptedModel:
    return new_model(prompted=True)


@pytest.fixture
def asked(model: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> list:
    """The prompts of every second pass."""
    seen: list = []
    answer = model.answer

    def record(embedding: torch.Tensor, prompts):
        seen.append(prompts)
        return answer(embedding, prompts)

    monkeypatch.setattr(model, "answer", record)
    return seen


def test_both_passes_train_and_what_is_frozen_stays(
    model: AdaptedModel, samples: Callable[..., TrainingSet]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = SAMSP(model, samples(), SETTINGS)
    for number in range(2):
        losses = method.step(number)
        assert all(np.isfinite(value) for value in losses.values())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert {"training_loss", "first_pass_loss", "prompted_loss"} < set(losses)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(model.learned_state())
    assert "prompted.mask_tokens" in changed
    assert not any(name.startswith("prompted.iou_prediction_head") for name in changed)


def test_a_structure_that_is_not_found_yet_is_prompted_by_its_label(
    model: AdaptedModel, samples: Callable[..., TrainingSet], asked: list
) -> None:
    training_set = samples((4,))
    settings = replace(SETTINGS, box_noise=0.0, views=1)
    model.decode = lambda embedding: (
        F.one_hot(  # type: ignore[method-assign]
            torch.zeros(1, 32, 32, dtype=torch.long), 3
        ).movedim(3, 1)
        * (torch.ones(1, requires_grad=True) + 0 * model.prompt_embedding.sum())
    )
    SAMSP(model, training_set, settings).step(0)
    (prompts,) = asked
    assert sorted(prompts.classes.tolist()) == [1, 2]
    for number, box in zip(prompts.classes, prompts.boxes, strict=True):
        rows, columns = torch.nonzero(training_set.targets[0] == number, as_tuple=True)
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [4 * int(corner) for corner in corners]


def test_a_box_is_of_the_first_pass_but_where_it_missed_what_is_there(
    model: AdaptedModel, samples: Callable[..., TrainingSet]
) -> None:
    found, wanted = torch.zeros(2, 3, 32, 32, dtype=torch.long)
    wanted[0, 4:12, 4:12], found[0, 5:12, 4:12] = 1, 1  # nearly right
    wanted[1, 4:12, 4:12], found[1, 10:20, 10:20] = 1, 1  # missed
    found[2, 20:24, 8:16] = 1  # there is none
    wanted[:, :, 24:] = IGNORED
    found[0, 12:, 24:] = 1  # in the padding, and so much larger that the rest hardly counts
    logits = 5.0 * F.one_hot(found, 3).movedim(3, 1)
    settings = replace(SETTINGS, box_noise=0.0, prompts=9)
    prompts = SAMSP(model, samples((4,)), settings)._prompts(logits, wanted.to(torch.uint8), 0)
    boxes = dict(zip(prompts.images.tolist(), (prompts.boxes / 4).tolist(), strict=True))
    assert boxes == {0: [4, 5, 12, 12], 1: [4, 4, 12, 12], 2: [8, 20, 16, 24]}
    assert prompts.classes.tolist() == [1, 1, 1]


def test_the_mask_is_the_first_passs_own_even_where_the_labels_box_is_taken(
    model: AdaptedModel, samples: Callable[..., TrainingSet], asked: list
) -> None:
    training_set = samples((4,))
    # The first pass is sure of background, a little less so of the disc's upper half.
    logits = torch.zeros(1, 3, 32, 32)
    logits[0, 0] = 3.0
    logits[0, 1, :5] = 2.0
    model.decode = lambda embedding: (  # type: ignore[method-assign]
        logits + 0 * model.prompt_embedding.square().sum()
    )
    settings = replace(SETTINGS, prompt="box-point-mask", box_noise=0.0, views=1)
    SAMSP(model, training_set, settings).step(0)
    (prompts,) = asked
    assert sorted(prompts.classes.tolist()) == [1, 2]
    for number, point, mask in zip(prompts.classes, prompts.points, prompts.masks, strict=True):
        column, row = (point / 4).long().tolist()
        assert training_set.targets[0, row, column] == number
        torch.testing.assert_close(mask[0], log_odds(logits)[0, number])


def test_the_second_pass_teaches_the_first_through_the_mask_and_not_through_the_box(
    new_model: Callable[..., AdaptedModel], samples: Callable[..., TrainingSet]
) -> None:
    training_set = samples((4,))
    for kind, reached in (("box", False), ("box-mask", True)):
        model = new_model(prompted=True, prompt=kind)
        shapes = F.one_hot(training_set.targets.clamp(0, 2).long(), 3).movedim(3, 1) * 4.0
        first = shapes.requires_grad_(True)
        method = SAMSP(model, training_set, replace(SETTINGS, prompt=kind))
        prompts = method._prompts(first, training_set.targets, 0)
        embedding = model.embed(training_set.features[prompts.images])
        model.answer(embedding, prompts)[0].square().mean().backward()
        assert (first.grad is not None and bool(first.grad.abs().sum() > 0)) == reached


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_a_second_pass_of_each_kind_learns(
    new_model: Callable[..., AdaptedModel], samples: Callable[..., TrainingSet], kind: PromptKind
) -> None:
    settings = replace(SETTINGS, steps=200, batch=1, prompts=2, prompt=kind)
    method = SAMSP(new_model(prompted=True, prompt=kind), samples((4,)), settings)
    losses = [method.step(number)["prompted_loss"] for number in range(36)]
    # One that says "nothing" everywhere has about 0.38.
    assert np.mean(losses[-6:]) < 0.3 < np.mean(losses[:6])


def test_the_model_knows_what_its_second_pass_was_prompted_with(tune: Tune) -> None:
    tuned = tune(method="sam-sp", settings={**QUICK, "prompt": "box-mask"})
    model, card = tuned.adapted.model, tuned.adapted.card
    assert card.adaptation.prompted and card.adaptation.prompt == "box-mask"
    names = {name for name in model.learned_state() if "mask_downscaling" in name}
    assert names and card.settings["prompt"] == "box-mask"


def test_a_kind_of_prompt_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SAMAutoSegError, match="setting prompt=mask: expected box or box-point"):
        SAMSPSettings(prompt="mask")  # type: ignore[arg-type]


def test_a_step_asks_no_more_than_it_may(
    model: AdaptedModel, samples: Callable[..., TrainingSet], asked: list
) -> None:
    method = SAMSP(model, samples(), replace(SETTINGS, prompts=1))
    for number in range(3):
        method.step(number)
    assert [len(prompts) for prompts in asked] == [1, 1, 1]


def test_the_loss_is_that_of_both_passes_and_a_distillation_that_is_ramped_up(
    model: AdaptedModel, samples: Callable[..., TrainingSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    descended: list[float] = []
    monkeypatch.setattr(SAMSP, "_descend", lambda self, loss, number: descended.append(loss.item()))
    method = SAMSP(model, samples(), replace(SETTINGS, prompted_weight=2.0, distillation=3.0))
    for number, share in ((0, 0.0), (1, 0.5), (2, 1.0), (9, 1.0)):
        losses = method.step(number)
        watched = losses["first_pass_loss"] + 2 * losses["prompted_loss"]
        assert losses["training_loss"] == pytest.approx(watched)
        assert losses["distillation_loss"] > 0
        assert descended[-1] == pytest.approx(watched + 3 * share * losses["distillation_loss"])


def test_slices_without_a_structure_train_the_first_pass_only(
    model: AdaptedModel, samples: Callable[..., TrainingSet]
) -> None:
    training_set = samples()
    empty = replace(training_set, targets=torch.zeros_like(training_set.targets))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.decoder.mask_tokens.weight *= 0
        model.decoder.output_hypernetworks_mlps.requires_grad_(True)
    model.decode = lambda embedding: torch.stack(  # type: ignore[method-assign]
        [
            model.prompt_embedding.mean() + torch.full((len(embedding), 32, 32), v)
            for v in (9, 0, 0)
        ],
        1,
    )
    losses = SAMSP(model, empty, replace(SETTINGS, weight_decay=0.0)).step(0)
    assert "prompted_loss" not in losses
    assert torch.equal(model.state_dict()["prompted.mask_tokens"], state["prompted.mask_tokens"])


def test_boxes_are_moved_within_their_noise_and_the_input() -> None:
    boxes = torch.tensor([[0.0, 10.0, 20.0, 50.0], [100.0, 100.0, 128.0, 128.0]]).repeat(50, 1)
    moved = shaken(boxes, 0.1, 128, np.random.default_rng(0))
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    assert ((moved - boxes).abs() <= 0.1 * sizes + 1e-4).all()
    assert moved.min() >= 0 and moved.max() <= 128
    assert (moved != boxes).any(0).all()
    assert torch.equal(shaken(boxes, 0.0, 128, np.random.default_rng(0)), boxes)


def test_distillation_is_zero_for_a_student_that_agrees_and_teaches_only_the_student() -> None:
    teacher = torch.randn(2, 8, 8, requires_grad=True)
    student = torch.randn(2, 8, 8, requires_grad=True)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    assert distillation_loss(teacher, teacher, valid, 2.0).item() == pytest.approx(0, abs=1e-6)
    loss = distillation_loss(student, teacher, valid, 2.0)
    p, q = (torch.sigmoid(x / 2).detach() for x in (teacher, student))
    wanted = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    loss.backward()
    assert teacher.grad is None and student.grad is not None
    valid[0] = False
    one = distillation_loss(student[1:], teacher[1:], valid[1:], 2.0)
    assert distillation_loss(student, teacher, valid, 2.0).item() == pytest.approx(one.item())


def test_padding_is_in_no_loss(
    model: AdaptedModel, samples: Callable[..., TrainingSet], new_model
) -> None:
    training_set = samples()
    assert (training_set.targets == IGNORED).any()
    losses = []
    for value in (0.0, 50.0):
        own = new_model(prompted=True)
        decode, answer = own.decode, own.answer
        outside = training_set.targets[0] == IGNORED

        def decoded(embedding, decode=decode, outside=outside, value=value):
            return decode(embedding) + value * outside * torch.tensor([1.0, 0, 0]).view(3, 1, 1)

        def answered(embedding, prompts, answer=answer, outside=outside, value=value):
            logits, iou = answer(embedding, prompts)
            return logits - value * outside, iou

        own.decode, own.answer = decoded, answered
        method = SAMSP(own, training_set, replace(SETTINGS, distillation=0.0, views=1))
        losses.append(method.step(9))
    for name in ("first_pass_loss", "prompted_loss", "distillation_loss"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-5), name
