from collections.abc import Callable

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.with_encoder_blocks import with_encoder_blocks
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


def learned(backbone: Backbone, **adaptation: object) -> AdaptedModel:
    model = AdaptedModel(backbone, 3, Adaptation(**adaptation))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.learned():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize(("before", "after"), [(0, 1), (0, 2), (1, 2), (2, 2), (2, 1)])
@torch.inference_mode()
def test_it_has_the_function_of_its_source(backbone: Backbone, before: int, after: int) -> None:
    source = learned(backbone, encoder_blocks=before)
    state = source.learned_state()
    model = with_encoder_blocks(source, backbone, after)
    assert model.adaptation.encoder_blocks == max(before, after)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    features = [backbone.encode(image, count) for count in (before, max(before, after))]
    assert torch.allclose(source(features[0]), model(features[1]), atol=1e-4)
    assert all(torch.equal(state[name], value) for name, value in source.learned_state().items())


def test_heads_without_low_rank_updates_get_them_in_the_encoder(backbone: Backbone) -> None:
    source = learned(backbone, head="auto-linear", lora_rank=0)
    model = with_encoder_blocks(source, backbone, 1)
    assert model.adaptation.lora_rank > 0 and model.adaptation.head == "auto-linear"
    assert any(name.startswith("tail.") for name in model.learned_state())


def test_blocks_that_the_encoder_lacks_are_refused(backbone: Backbone) -> None:
    with pytest.raises(SAMAutoSegError, match="encoder blocks 3"):
        with_encoder_blocks(learned(backbone), backbone, 3)


@torch.inference_mode()
def test_the_pixel_branch_comes_along(backbone: Backbone) -> None:
    source = learned(backbone, pixel_side=32, pixel_weight=0.5)
    model = with_encoder_blocks(source, backbone, 1)
    image = np.random.default_rng(0).integers(0, 256, (30, 24), dtype=np.uint8)
    low_res = torch.randn(3, 32, 32)
    found, wanted = (
        either.slice_logits(low_res, image, backbone.spec) for either in (model, source)
    )
    assert torch.equal(found, wanted)
    assert not torch.equal(wanted, backbone.spec.logits_to_slice(low_res, (30, 24)))
