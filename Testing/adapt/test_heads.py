"""The heads without a prompt: AutoSAM's, and our form of its transformer."""

import copy
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.auto_cnn import AutoCNN
from SAMAutoSegLib.adapt.auto_linear import AutoLinear
from SAMAutoSegLib.adapt.heads import HeadName
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.upstream import MaskDecoder, TwoWayTransformer

# Those that prompt, and the one of imported models, are tested by themselves.
PROMPT_FREE = [name for name in get_args(HeadName) if name.startswith("auto-")]
HEADS = ["class-tokens", "class-tokens-whole", *PROMPT_FREE]
VIT = ["auto-vit", "auto-vit-tokens"]


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture
def new_model(backbone: Backbone) -> Callable[..., AdaptedModel]:
    """Builds an adapted model of some head."""

    def build(head: HeadName, classes: int = 4, seed: int = 0, **entries: object) -> AdaptedModel:
        torch.manual_seed(seed)
        rank = 4 if head == "class-tokens" else 0
        adaptation = Adaptation(**{"lora_rank": rank, "head": head, **entries})
        return AdaptedModel(backbone, classes, adaptation)

    return build


NewModel = Callable[..., AdaptedModel]


def features(backbone: Backbone, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return backbone.encode(torch.randn(count, 3, 128, 128, generator=generator))


def upstream_decoder(backbone: Backbone) -> MaskDecoder:
    """Upstream's decoder with the weights of this SAM."""
    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=3,
    )
    decoder.load_state_dict(backbone.mask_decoder.state_dict())
    return decoder.eval()


def upstream_masks(
    decoder: MaskDecoder, backbone: Backbone, feature: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """What upstream's modules make of some tokens: a mask for each but the first."""
    place = backbone.prompt_encoder.get_dense_pe()
    out, image = decoder.transformer(feature[None], place, tokens[None])
    image = image.transpose(1, 2).view(1, 256, *feature.shape[1:])
    upscaled = decoder.output_upscaling(image)[0].flatten(1)
    weights = decoder.output_hypernetworks_mlps[0](out[0, 1:])
    return (weights @ upscaled).view(-1, *(4 * side for side in feature.shape[1:]))


@pytest.mark.parametrize("head", HEADS)
def test_one_call_gives_all_classes_of_every_slice(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model = new_model(head)
    calls: list[int] = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert model(features(backbone, 3)).shape == (3, 4, 32, 32)
    assert len(calls) == 1


@pytest.mark.parametrize("head", VIT)
def test_the_decoder_runs_once_per_batch(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model = new_model(head)
    calls: list[int] = []
    model.decoder.transformer.norm_final_attn.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(features(backbone, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("head", HEADS)
def test_slices_of_a_batch_do_not_see_each_other(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model, shown = new_model(head), features(backbone, 3)
    with torch.no_grad():
        together = model(shown)
        alone = torch.cat([model(feature[None]) for feature in shown])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_class_of_the_batched_head_computes_what_it_computes_alone(
    new_model: NewModel, backbone: Backbone
) -> None:
    model, shown = new_model("auto-vit"), features(backbone)
    tokens = model.decoder.tokens.detach()
    with torch.no_grad():
        together = model(shown)
        for number in range(4):
            model.decoder.tokens = nn.Parameter(tokens[number : number + 1])
            torch.testing.assert_close(
                model(shown)[:, 0], together[:, number], rtol=1e-5, atol=1e-5
            )


def test_classes_in_one_sequence_see_each_other(new_model: NewModel, backbone: Backbone) -> None:
    model, shown = new_model("auto-vit-tokens"), features(backbone, 1)
    with torch.no_grad():
        before = model(shown)
        model.decoder.class_tokens[3] += 1
        after = model(shown)
    assert (before - after).abs().amax((0, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("auto-vit", ["tokens"]),
        ("auto-vit-tokens", ["class_tokens"]),
        ("auto-cnn-small", ["layers.15.weight", "layers.15.bias"]),
        ("auto-linear", ["classify.2.weight", "classify.2.bias"]),
    ],
)
def test_permuted_classes_give_permuted_logits(
    new_model: NewModel, backbone: Backbone, head: HeadName, names: list[str]
) -> None:
    model, shown, order = new_model(head), features(backbone), [2, 0, 3, 1]
    with torch.no_grad():
        before = model(shown)
        for name in names:
            values = model.decoder.get_parameter(name)
            values.copy_(values[order].clone())
        torch.testing.assert_close(model(shown), before[:, order], rtol=1e-4, atol=1e-4)


def test_the_batched_head_computes_what_upstream_computes_for_every_class(
    new_model: NewModel, backbone: Backbone
) -> None:
    model, shown = new_model("auto-vit"), features(backbone)
    theirs = upstream_decoder(backbone)
    with torch.no_grad():
        found = model(shown)
        for n, feature in enumerate(shown):
            for number, tokens in enumerate(model.decoder.tokens):
                wanted = upstream_masks(theirs, backbone, feature, tokens)[0]
                torch.testing.assert_close(found[n, number], wanted, rtol=1e-4, atol=1e-4)


def test_the_head_of_one_sequence_computes_what_upstream_computes(
    new_model: NewModel, backbone: Backbone
) -> None:
    model, shown = new_model("auto-vit-tokens"), features(backbone)
    theirs, head = upstream_decoder(backbone), model.decoder
    with torch.no_grad():
        tokens = torch.cat([head.iou_token, head.class_tokens])
        found = model(shown)
        for n, feature in enumerate(shown):
            wanted = upstream_masks(theirs, backbone, feature, tokens)
            torch.testing.assert_close(found[n], wanted, rtol=1e-4, atol=1e-4)


def test_the_linear_head_is_sams_upscaling_and_a_map_at_every_pixel(
    new_model: NewModel, backbone: Backbone
) -> None:
    model, shown = new_model("auto-linear"), features(backbone)
    with torch.no_grad():
        upscaled = backbone.mask_decoder.output_upscaling(shown)
        wanted = model.decoder.classify(upscaled.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(model(shown), wanted, rtol=1e-4, atol=1e-4)
        assert (model(shown) < 0).any()
    # All of it is learned, and between the two maps stands a ReLU.
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())
    assert [type(layer) for layer in model.decoder.classify] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (lambda decoder: AutoCNN(256, 4, depth=4), 20_700_000),
        (lambda decoder: AutoCNN(256, 4, depth=2), 1_800_000),
        (lambda decoder: AutoLinear(decoder, 4), 75_000),
    ],
    ids=["cnn", "cnn-small", "linear"],
)
def test_heads_have_as_many_values_as_the_published_ones(
    backbone: Backbone, head: Callable[[MaskDecoder], nn.Module], wanted: int
) -> None:
    values = sum(p.numel() for p in head(backbone.mask_decoder).parameters())
    assert float(f"{values:.{len(str(wanted).rstrip('0'))}g}") == wanted


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_reaches_what_is_learned_and_nothing_else(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model = new_model(head)
    if head == "class-tokens":  # an update that is zero gives its other factor no gradient
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                nn.init.normal_(parameter)
    model(features(backbone)).square().mean().backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, name
    learned = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in model.learned()} == learned and len(model.learned()) == len(learned)


@pytest.mark.parametrize("head", VIT)
def test_what_is_not_learned_of_the_transformer_changes_no_logit(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model, shown = new_model(head), features(backbone)
    frozen = [p for p in model.decoder.parameters() if not p.requires_grad]
    assert len(frozen) == 7  # a bias of keys for every attention
    with torch.no_grad():
        before = model(shown)
        for parameter in frozen:
            parameter += torch.randn_like(parameter)
        torch.testing.assert_close(model(shown), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", PROMPT_FREE)
def test_nothing_is_added_to_the_embedding_and_no_prompt_is_learned(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model, shown = new_model(head), features(backbone)
    with torch.no_grad():
        before = model(shown)
        model.prompt_embedding += 1
        assert torch.equal(model(shown), before)
    assert "prompt_embedding" not in model.learned_state()


@pytest.mark.parametrize("head", VIT)
def test_positions_are_those_of_the_checkpoint(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model, shown = new_model(head), features(backbone)
    assert torch.equal(model.position, backbone.prompt_encoder.get_dense_pe())
    with torch.no_grad():
        before = model(shown)
        model.position.copy_(model.position.roll(3, -1))
        assert not torch.allclose(model(shown), before, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_building_and_training_a_head_leaves_the_backbone_as_it_was(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    before = copy.deepcopy(backbone.mask_decoder.state_dict())
    model = new_model(head)
    with torch.no_grad():
        for parameter in model.learned():
            parameter += 1
    after = backbone.mask_decoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad for p in backbone.mask_decoder.parameters())


@pytest.mark.parametrize("head", PROMPT_FREE)
def test_learned_weights_move_to_another_model_bit_for_bit(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    shown = features(backbone)
    one, other = new_model(head, seed=1), new_model(head, seed=2)
    assert not torch.equal(one(shown), other(shown))
    other.load_learned_state(one.learned_state())
    assert torch.equal(one(shown), other(shown))


@pytest.mark.parametrize("head", VIT)
def test_all_classes_may_start_from_sams_own_mask(
    new_model: NewModel, backbone: Backbone, head: HeadName
) -> None:
    model = new_model(head, token_init="sam")
    with torch.no_grad():
        logits = model(features(backbone))
    torch.testing.assert_close(logits[:, :1].expand_as(logits), logits)


def test_an_adaptation_names_its_head_and_files_from_before_have_the_first() -> None:
    adaptation = Adaptation(lora_rank=0, head="auto-cnn-small")
    assert Adaptation.from_json(adaptation.to_json()) == adaptation
    before = {"lora_rank": 4, "encoder_blocks": 0, "token_init": "random"}
    assert Adaptation.from_json(before) == Adaptation(head="class-tokens")


def test_adaptations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="head 'auto': expected one of .*auto-vit"):
        Adaptation(head="auto")  # type: ignore[arg-type]
    with pytest.raises(SAMAutoSegError, match="token_init 'zero': expected random or sam"):
        Adaptation(token_init="zero")  # type: ignore[arg-type]
    with pytest.raises(SAMAutoSegError, match="LoRA rank 4: expected 0, since the head auto-vit"):
        Adaptation(head="auto-vit")
    assert Adaptation(head="auto-vit", encoder_blocks=1).lora_rank == 4
