"""A prompted SAM adapts and stays one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.inspection import describe
from SAMAutoSegLib.adapt.prompted_model import merged, save_merged
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods import we_sam_prompted
from SAMAutoSegLib.methods.method import AGREEMENT
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.methods.we_sam_prompted import AdaptedSAM, adapt_prompted
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
