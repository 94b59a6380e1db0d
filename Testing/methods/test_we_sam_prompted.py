"""A prompted SAM adapts and stays one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.inspection import describe
from SAMAutoSegLib.adapt.prompted_model import merged, save_merged
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods import we_sam_prompted
from SAMAutoSegLib.methods.method import AGREEMENT
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.methods.we_sam_losses import (
    contrastive_loss,
    dice_loss,
    focal_loss,
    quality_loss,
)
from SAMAutoSegLib.methods.we_sam_prompted import AdaptedSAM, PromptedWeSAM, adapt_prompted
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.predictor import ClickPredictor

WEAK = WeakLabels(
    "axial",
    {
        0: {3: Hint(boxes=((6, 4, 23, 21), (0, 0, 4, 4))), 7: Hint(points=((33, 9, 1),))},
        2: {3: Hint(points=((16, 14, 1), (2, 2, -1)))},
        4: {3: Hint(absent=True)},
    },
)


def adapt(
    backbone: Backbone, volume: LabeledVolume, weak: WeakLabels = WEAK, **settings: object
) -> AdaptedSAM:
    return adapt_prompted(
        [UnlabeledVolume(volume.image, (0, 2, 4), weak)],
        backbone,
        plane="axial",
        settings={"steps": 4, "encoder_blocks": 1, **settings},
        intensity=Intensity("window", 0, 255),
    )


def test_the_anchor_answers_prompts_as_clicks_and_boxes_are_answered(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[PromptedWeSAM] = []
    begun = PromptedWeSAM.__init__

    def record(self: PromptedWeSAM, *given: Any) -> None:
        made.append(self)
        begun(self, *given)

    monkeypatch.setattr(PromptedWeSAM, "__init__", record)
    adapt(tiny_backbone(), labeled(), steps=1)
    first, third = made[0].slices
    image, predictor = labeled().image, ClickPredictor(tiny_backbone())
    stack = SliceStack(Intensity("window", 0, 255).apply(image.array), image.grid, "axial")

    def answered(**prompt: Any) -> torch.Tensor:
        given = {name: np.array(values) for name, values in prompt.items()}
        mask = predictor.predict(**given, multimask=False).low_res[0] > 0
        return torch.from_numpy(mask) & (first.inside[0, 0] > 0)

    predictor.set_image(stack.slice_at(0))
    expected = [
        answered(box=(4, 6, 21, 23)),
        answered(box=(0, 0, 4, 4)),
        answered(points=[(9, 33)], labels=[1]),
    ]
    assert torch.equal(first.masks[0] > 0, torch.stack(expected))
    predictor.set_image(stack.slice_at(2))
    clicked = answered(points=[(14, 16), (2, 2)], labels=[1, 0])
    assert torch.equal(third.masks[0, 0] > 0, clicked)
    assert not torch.equal(first.strong[0], first.weak)


def test_a_step_is_made_of_all_four_losses(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[tuple[Any, ...]]] = {}

    def spied(name: str, loss: Callable[..., torch.Tensor]) -> None:
        def record(*given: Any) -> torch.Tensor:
            seen.setdefault(name, []).append(given)
            return loss(*given)

        monkeypatch.setattr(we_sam_prompted, name, record)

    # Far enough from what it was made of for other masks.
    monkeypatch.setattr(we_sam_prompted, "degraded", lambda image, rng: 255 - image)
    losses = (focal_loss, dice_loss, quality_loss, contrastive_loss)
    for loss in losses:
        spied(loss.__name__, loss)
    weights = {"focal_weight": 3.0, "anchor_weight": 5.0, "contrast_weight": 7.0}
    told = adapt(tiny_backbone(), labeled(), steps=1, temperature=0.5, **weights).history[0]
    ((student, targets, _),) = seen["focal_loss"]
    own, of_student, of_teacher, _ = seen["dice_loss"]  # the last one is told as the agreement
    teacher = of_teacher[0]
    assert own[0] is student is of_student[0] and not torch.equal(teacher > 0.5, student > 0.5)
    assert torch.equal(targets > 0, (teacher > 0.5) & (of_student[2] > 0))
    assert torch.equal(of_student[1], of_teacher[1])
    focal, quality, contrast = (
        loss(*seen[loss.__name__][0]).item()
        for loss in (focal_loss, quality_loss, contrastive_loss)
    )
    learned = 3 * focal + dice_loss(*own).item() + quality
    held = (dice_loss(*of_student) + dice_loss(*of_teacher)).item() / 2
    assert told["self_training_loss"] == pytest.approx(learned)
    assert told["anchor_loss"] == pytest.approx(held)
    assert told["adaptation_loss"] == pytest.approx(learned + 5 * held + 7 * contrast)
    embedded, *_, temperature = seen["contrastive_loss"][0]
    assert embedded.requires_grad and temperature == 0.5


def test_only_the_encoder_learns_and_the_agreement_is_told(
    tiny_backbone: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    backbone = tiny_backbone()
    before = merged(adapt(tiny_backbone(), labeled(), learning_rate=1e-9).model, tiny_backbone())
    tuned = adapt(backbone, labeled(), least_agreement=0.0)
    assert all(AGREEMENT in entry for entry in tuned.history) and tuned.history[0][AGREEMENT] == 1
    after = merged(tuned.model, backbone)
    changed = {n for n in before if not torch.allclose(before[n], after[n], atol=1e-7)}
    assert changed == {"image_encoder.blocks.1.attn.qkv.weight"}
    assert tuned.notes == ["adapted with 4 prompts"]


def test_the_file_is_a_sam_with_the_adapted_function(
    tiny_file: Path,
    tmp_path: Path,
    labeled: Callable[..., LabeledVolume],
    picture: Callable[..., np.ndarray],
) -> None:
    backbone = load_backbone(tiny_file, device="cpu", precision=torch.float32)
    tuned = adapt(backbone, labeled(), learning_rate=0.05, warmup=0, least_agreement=0.0)
    save_merged(tmp_path / "sam.safetensors", tuned.model, backbone)
    written = load_backbone(tmp_path / "sam.safetensors", device="cpu", precision=torch.float32)
    image = backbone.spec.prepare(picture(40, 50))[None]
    with torch.inference_mode():
        expected = tuned.model.tail(backbone.encode(image, 1))
    assert torch.allclose(written.encode(image), expected, atol=1e-4)
    assert not torch.allclose(written.encode(image), backbone.encode(image), atol=1e-4)
    # As of MedSAM: the tensors are those of a SAM, the input is not.
    unit = load_backbone(tiny_file, device="cpu", normalization="unit")
    save_merged(tmp_path / "unit.safetensors", tuned.model, unit)
    assert load_backbone(tmp_path / "unit.safetensors", device="cpu").spec == unit.spec
    assert written.spec == backbone.spec != unit.spec
    assert describe(tmp_path / "unit.safetensors")["normalization"] == "unit"
    predictor = ClickPredictor(written)
    predictor.set_image(picture(40, 50))
    assert predictor.predict(box=np.array([5, 5, 20, 20])).masks.shape[-2:] == (40, 50)


def test_a_sam_that_drifts_away_is_kept_as_it_was(
    tiny_backbone: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    backbone = tiny_backbone()
    wild = {"learning_rate": 1.0, "warmup": 0, "steps": 30, "least_agreement": 1.0}
    tuned = adapt(backbone, labeled(), **wild)
    assert tuned.stopped.startswith("drift") and len(tuned.history) < 30
    own = merged(tuned.model, backbone)["image_encoder.blocks.1.attn.qkv.weight"]
    theirs = backbone.image_encoder.state_dict()["blocks.1.attn.qkv.weight"]
    assert torch.allclose(own, theirs)


@pytest.mark.parametrize("of", ["loss", "gradient"])
def test_a_loss_or_a_gradient_that_is_no_number_gives_the_sam_back(
    tiny_backbone: Callable[..., Backbone], labeled: Callable[..., LabeledVolume], of: str
) -> None:
    backbone = tiny_backbone()

    def loss(logits: torch.Tensor, *_: object) -> torch.Tensor:
        if of == "loss":
            return torch.tensor(float("nan"))
        return (logits - logits.detach()).abs().sqrt().sum()  # 0, with a slope beyond all limits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(we_sam_prompted, "focal_loss", loss)
        tuned = adapt(backbone, labeled(), steps=1)
    assert tuned.stopped == "the loss is no number any more" and len(tuned.history) == 1
    own = merged(tuned.model, backbone)
    assert all(tensor.isfinite().all() for tensor in own.values())


def test_of_many_instances_of_a_slice_the_first_are_taken(
    tiny_backbone: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(we_sam_prompted, "_MOST_INSTANCES", 2)
    assert adapt(tiny_backbone(), labeled(), steps=1).notes == ["adapted with 3 prompts"]


def test_a_prompt_outside_of_the_image_is_refused(
    tiny_backbone: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    for hint, words in (
        (Hint(points=((50, 2, 1),)), "point 50, 2 of label 3 in slice 2 lies outside"),
        (Hint(boxes=((4, 4, 4, 9),)), "has no area"),
    ):
        with pytest.raises(SAMAutoSegError, match=words):
            adapt(tiny_backbone(), labeled(), WeakLabels("axial", {2: {3: hint}}))


def test_without_a_prompt_there_is_nothing_to_adapt_with(
    tiny_backbone: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    for weak in (WeakLabels("axial"), WeakLabels("axial", {2: {3: Hint(absent=True)}})):
        with pytest.raises(SAMAutoSegError, match="no slice has a box, a point or paint"):
            adapt(tiny_backbone(), labeled(), weak)
