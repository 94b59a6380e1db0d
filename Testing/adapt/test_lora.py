from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from SAMAutoSegLib.adapt.lora import (
    LoRALinear,
    LoRAQueryValue,
    add_lora_to_attention,
    add_lora_to_blocks,
)
from SAMAutoSegLib.sam.architecture import Parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.encoder_tail import EncoderTail, front_features
from SAMAutoSegLib.sam.image_encoder_fast import fast_encoder
from SAMAutoSegLib.sam.tiny_vit import TinyViT


def learned(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def shake(module: nn.Module) -> None:
    """Give B other values than its zeros."""
    for name, parameter in module.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, 0, 0.1)


def test_a_new_update_changes_no_bit() -> None:
    base = nn.Linear(24, 16)
    x = torch.randn(5, 24)
    assert torch.equal(LoRALinear(base, 4)(x), base(x))


def test_the_update_is_b_times_a_without_a_factor() -> None:
    lora = LoRALinear(nn.Linear(24, 16), 4)
    shake(lora)
    x = torch.randn(5, 24)
    unmerged = lora.base(x) + x @ lora.lora_a.T @ lora.lora_b.T
    torch.testing.assert_close(lora(x), unmerged, rtol=0, atol=1e-5)
    assert (lora(x) - lora.base(x)).abs().max() > 0.01
    merged = nn.Linear(24, 16)
    merged.weight.data, merged.bias.data = lora.weight.data, lora.bias.data
    assert torch.equal(merged(x), lora(x))


def test_only_the_update_is_trained() -> None:
    lora = LoRALinear(nn.Linear(24, 16), 4)
    lora(torch.randn(5, 24)).square().sum().backward()
    assert learned(lora).keys() == {"lora_a", "lora_b"}
    assert lora.lora_b.grad.abs().max() > 0
    assert lora.base.weight.grad is None and lora.base.bias.grad is None


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"LoRA rank {rank}: expected 1 or more"):
        LoRALinear(nn.Linear(4, 4), rank)


def test_rank_four_gives_a_stock_decoder_blo_sams_23552_values(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    transformer = tiny_backbone().mask_decoder.transformer
    add_lora_to_attention(transformer, 4)
    assert sum(p.numel() for p in learned(transformer).values()) == 23_552
    # q and v of self-attention and both cross-attentions in two layers, and of the last attention.
    assert len(learned(transformer)) == 2 * (2 * 3 * 2 + 2)


def by_kind(dim: int) -> torch.Tensor:
    """Output rows of upstream's ViT: all queries, all keys, all values."""
    return torch.arange(3 * dim).view(3, dim)


def by_head(dim: int, heads: int) -> torch.Tensor:
    """Output rows of TinyViT: query, key and value of the first head, then of the next."""
    return torch.arange(3 * dim).view(heads, 3, -1).transpose(0, 1).reshape(3, dim)


@pytest.mark.parametrize("rows", [by_kind(16), by_head(16, 4)], ids=["ViT", "TinyViT"])
def test_a_fused_projection_gets_updates_of_query_and_value_only(rows: torch.Tensor) -> None:
    base = nn.Linear(16, 48)
    lora = LoRAQueryValue(base, 2, rows)
    x = torch.randn(5, 16)
    assert torch.equal(lora(x), base(x))
    shake(lora)
    difference = (lora(x) - base(x)).detach()
    for part, update in ((rows[0], lora.query), (rows[2], lora.value)):
        expected = x @ update.lora_a.T @ update.lora_b.T
        torch.testing.assert_close(difference[:, part], expected.detach(), rtol=0, atol=1e-5)
    assert torch.equal(difference[:, rows[1]], torch.zeros(5, 16))
    assert learned(lora).keys() == {
        f"{part}.lora_{letter}" for part in ("query", "value") for letter in "ab"
    }


@pytest.mark.parametrize("family", ["ViT", "TinyViT"])
@pytest.mark.parametrize("part", ["query", "value"])
def test_encoder_blocks_attend_with_changed_queries_and_values_but_the_same_keys(
    family: str,
    part: str,
    tiny_parts: Callable[..., Parts],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = TinyViT(1).eval() if family == "TinyViT" else tiny_parts().image_encoder
    fast = fast_encoder(encoder, torch.device("cpu"), torch.float32)
    tail = EncoderTail(fast, 1)
    features = front_features(fast, torch.randn(1, 3, 128, 128), 1)
    seen: list[tuple[torch.Tensor, ...]] = []
    attend = F.scaled_dot_product_attention

    def note(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: object) -> torch.Tensor:
        seen.append((q, k, v))
        return attend(q, k, v, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    with torch.no_grad():
        before = tail(features)
        add_lora_to_blocks(tail, 2)
        assert torch.equal(tail(features), before)
        for module in tail.modules():
            if isinstance(module, LoRAQueryValue):
                nn.init.normal_(getattr(module, part).lora_b, 0, 0.1)
        assert not torch.equal(tail(features), before)
    old, _, new = seen
    same = [torch.equal(one, other) for one, other in zip(old, new, strict=True)]
    assert same == [part != "query", True, part != "value"]
    changed = (old[0] != new[0]) if part == "query" else (old[2] != new[2])
    assert changed.flatten(2).any(-1).all()  # in every window and head
    assert len(learned(tail)) == 4


def test_the_weight_is_differentiable_in_both_factors() -> None:
    lora = LoRALinear(nn.Linear(6, 4).double(), 2)
    shake(lora)
    x = torch.randn(3, 6, dtype=torch.double)

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.linear(x, lora.base.weight + b @ a).square().sum()

    wanted = torch.autograd.grad(loss(lora.lora_a, lora.lora_b), (lora.lora_a, lora.lora_b))
    found = torch.autograd.grad(F.linear(x, lora.weight).square().sum(), (lora.lora_a, lora.lora_b))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
