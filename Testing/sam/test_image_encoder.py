"""The fast image encoders compute what the reference ones compute."""

from collections.abc import Callable

import pytest
import torch

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam import tiny_vit_fast
from SAMAutoSegLib.sam.architecture import Parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.encoder_tail import EncoderTail, front_features
from SAMAutoSegLib.sam.image_encoder_fast import fast_encoder, use_reference_attention
from SAMAutoSegLib.sam.tiny_vit import TinyViT
from SAMAutoSegLib.sam.tiny_vit_fast import FastTinyViT
from SAMAutoSegLib.sam.vit_fast import FastViT

CPU = torch.device("cpu")


def random_tiny_vit(stem_stride: int) -> TinyViT:
    torch.manual_seed(0)
    encoder = TinyViT(stem_stride).eval()
    for name, tensor in encoder.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif "running_mean" in name or "attention_biases" in name or name.endswith("bias"):
            tensor.normal_(0, 0.3)
    return encoder


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


# 128: the window of 14 is larger than the map of 8; 224: it fits; 320: a map of 20 is padded.
@pytest.mark.parametrize("side", [128, 224, 320])
def test_the_fast_vit_equals_upstream(side: int, tiny_parts: Callable[..., Parts]) -> None:
    encoder = tiny_parts(side).image_encoder
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        wanted = encoder(images)
        found = fast_encoder(encoder, CPU, torch.float32)(images)
    assert relative_error(found, wanted) < 1e-5


def test_the_fast_vit_has_the_gradients_of_upstream(tiny_parts: Callable[..., Parts]) -> None:
    encoder = tiny_parts().image_encoder
    images = torch.randn(1, 3, 128, 128, requires_grad=True)
    (wanted,) = torch.autograd.grad(encoder(images).sin().sum(), images)
    (found,) = torch.autograd.grad(FastViT(encoder)(images).sin().sum(), images)
    assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize("stem_stride", [0, 1], ids=["ViT", "TinyViT"])
def test_an_encoder_in_two_parts_gives_the_whole(
    tiny_parts: Callable[..., Parts], stem_stride: int
) -> None:
    fast = FastTinyViT(random_tiny_vit(1)) if stem_stride else FastViT(tiny_parts().image_encoder)
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        wanted = fast(images)
        kept = front_features(fast, images, 1)
        assert torch.equal(EncoderTail(fast, 1)(kept), wanted)


def test_more_blocks_to_tune_than_there_are_is_an_error() -> None:
    with pytest.raises(SAMAutoSegError, match="encoder blocks 3: this backbone has 1 to 2"):
        EncoderTail(FastTinyViT(random_tiny_vit(1)), 3)


@pytest.mark.parametrize("stem_stride", [1, 2], ids=["LiteMedSAM", "MobileSAM"])
def test_the_fast_tiny_vit_equals_the_reference(stem_stride: int) -> None:
    encoder = random_tiny_vit(stem_stride)
    use_reference_attention(encoder)
    images = torch.randn(2, 3, 32 * stem_stride**2, 32 * stem_stride**2)
    with torch.no_grad():
        wanted = encoder(images)
        found = fast_encoder(encoder, CPU, torch.float32)(images)
    assert relative_error(found, wanted) < 1e-5


def test_strips_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fast_encoder(random_tiny_vit(1), CPU, torch.float32)
    images = torch.randn(1, 3, 45, 45)  # no multiple of the 8 rows of the smallest strip
    with torch.no_grad():
        whole = fast(images)
        monkeypatch.setattr(tiny_vit_fast, "STRIP_BYTES", 1)
        assert torch.equal(fast(images), whole)


def test_bfloat16_is_near_float32(tiny_parts: Callable[..., Parts]) -> None:
    images = torch.randn(1, 3, 128, 128)
    for encoder in (tiny_parts().image_encoder, random_tiny_vit(1)):
        with torch.no_grad():
            wanted = encoder(images)
            found = fast_encoder(encoder, CPU, torch.bfloat16)(images).float()
        assert ((found - wanted).std() / wanted.std()).item() < 0.05


def test_the_reference_path_is_upstream_bit_for_bit(
    tiny_backbone: Callable[..., Backbone], upstream_sam: Callable
) -> None:
    backbone = tiny_backbone(attention="reference", precision=torch.bfloat16)
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        wanted = upstream_sam(backbone).image_encoder(images)
    assert torch.equal(backbone.encode(images), wanted)


def test_embeddings_can_be_used_in_training(tiny_backbone: Callable[..., Backbone]) -> None:
    embedding = tiny_backbone().encode(torch.randn(1, 3, 128, 128))
    layer = torch.nn.Conv2d(256, 1, 1)
    layer(embedding).sum().backward()
    assert layer.weight.grad is not None
