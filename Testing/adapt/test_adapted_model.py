import copy
from collections.abc import Callable

import pytest
import torch

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.class_decoder import ClassDecoder
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.upstream import MaskDecoder, TwoWayTransformer


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


def embeddings(backbone: Backbone, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return backbone.encode(torch.randn(count, 3, 128, 128, generator=generator))


def upstream_decoder(decoder: ClassDecoder) -> MaskDecoder:
    """An upstream decoder with the class tokens and hypernetworks as its own mask tokens."""
    classes = decoder.mask_tokens.num_embeddings
    theirs = MaskDecoder(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=classes - 1,
    )
    merged = {
        name.replace(".base", ""): tensor
        for name, tensor in decoder.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in decoder.named_modules():
        if hasattr(module, "lora_a"):
            merged[f"{name}.weight"] = module.weight.detach()
    missing, unexpected = theirs.load_state_dict(merged, strict=False)
    assert not unexpected
    assert all(name.startswith("iou_prediction_head.") for name in missing)
    return theirs.eval()


def shaken(model: AdaptedModel) -> AdaptedModel:
    """The model with something learned."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (*model.weights(), model.prompt_embedding):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("classes", [2, 5])
def test_the_decoder_computes_what_upstream_computes_with_the_same_tokens(
    backbone: Backbone, classes: int
) -> None:
    model = shaken(AdaptedModel(backbone, classes, Adaptation()))
    theirs = upstream_decoder(model.decoder)
    features = embeddings(backbone)
    with torch.no_grad():
        found = model(features)
        for n, feature in enumerate(features):
            wanted, _ = theirs.predict_masks(
                image_embeddings=feature[None],
                image_pe=backbone.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=torch.empty(1, 0, 256),
                dense_prompt_embeddings=model.prompt_embedding.view(1, -1, 1, 1).expand(
                    1, -1, 8, 8
                ),
            )
            torch.testing.assert_close(found[n], wanted[0], rtol=1e-5, atol=1e-5)


def test_a_new_update_changes_no_bit_of_the_logits(backbone: Backbone) -> None:
    features = embeddings(backbone)
    logits = []
    for rank in (0, 4):
        torch.manual_seed(0)
        model = AdaptedModel(backbone, 3, Adaptation(lora_rank=rank, token_init="sam"))
        logits.append(model(features).detach())
    assert torch.equal(*logits)


def test_every_class_starts_from_sams_own_single_mask_if_asked_to(backbone: Backbone) -> None:
    features = embeddings(backbone, 1)
    model = AdaptedModel(backbone, 3, Adaptation(token_init="sam"))
    with torch.no_grad():
        found = model(features)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 1], found[:, 2])
    for mlp in model.decoder.output_hypernetworks_mlps:
        theirs = backbone.mask_decoder.output_hypernetworks_mlps[0].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mlp.state_dict().items())
    tokens = backbone.mask_decoder.mask_tokens.weight[:1].expand(3, -1)
    assert torch.equal(model.decoder.mask_tokens.weight, tokens)


def test_random_classes_are_those_of_the_seed(backbone: Backbone) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(AdaptedModel(backbone, 3, Adaptation()).learned_state())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in (
        "decoder.mask_tokens.weight",
        "decoder.output_hypernetworks_mlps.0.layers.0.weight",
    ):
        assert not torch.equal(first[name], other[name])
    classes = [first[f"decoder.output_hypernetworks_mlps.{n}.layers.0.weight"] for n in range(3)]
    assert not torch.equal(classes[0], classes[1]) and not torch.equal(classes[1], classes[2])


def test_exactly_the_listed_parameters_are_learned(backbone: Backbone) -> None:
    model = AdaptedModel(backbone, 3, Adaptation())
    model(embeddings(backbone)).square().mean().backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith("decoder.transformer.") for name in frozen)
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    kinds = {
        name if name == "prompt_embedding" else name.split(".")[1] for name in model.learned_state()
    }
    assert kinds == {
        "prompt_embedding",
        "transformer",
        "iou_token",
        "mask_tokens",
        "output_upscaling",
        "output_hypernetworks_mlps",
    }
    updates = [p for name, p in model.named_parameters() if ".lora_" in name]
    assert sum(p.numel() for p in updates) == 23_552
    assert len(model.weights()) == len(model.learned_state()) - 1
    assert not any(p is model.prompt_embedding for p in model.weights())


def test_the_prompt_starts_from_sams_no_prompt(backbone: Backbone) -> None:
    model = AdaptedModel(backbone, 2, Adaptation())
    assert torch.equal(model.prompt_embedding, backbone.prompt_encoder.no_mask_embed.weight)


def test_training_leaves_the_backbone_as_it_was(backbone: Backbone) -> None:
    parts = (backbone.mask_decoder, backbone.prompt_encoder, backbone.image_encoder)
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    for blocks in (0, 1):
        model = AdaptedModel(backbone, 2, Adaptation(encoder_blocks=blocks))
        shaken(model)
    for part, state in zip(parts, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.state_dict().items())
        assert not any(p.requires_grad for p in part.parameters())


def test_slices_of_a_batch_do_not_see_each_other(backbone: Backbone) -> None:
    model = shaken(AdaptedModel(backbone, 3, Adaptation()))
    features = embeddings(backbone, 3)
    with torch.no_grad():
        together = model(features)
        alone = torch.cat([model(feature[None]) for feature in features])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_permuted_classes_give_permuted_logits(backbone: Backbone) -> None:
    model = shaken(AdaptedModel(backbone, 3, Adaptation()))
    order = [2, 0, 1]
    state = model.learned_state()
    permuted = dict(state)
    permuted["decoder.mask_tokens.weight"] = state["decoder.mask_tokens.weight"][order]
    stem = "decoder.output_hypernetworks_mlps."
    for name in state:
        if name.startswith(stem):
            number, rest = name.removeprefix(stem).split(".", 1)
            permuted[name] = state[f"{stem}{order[int(number)]}.{rest}"]
    features = embeddings(backbone, 1)
    with torch.no_grad():
        before = model(features)
        model.load_learned_state(permuted)
        torch.testing.assert_close(model(features), before[:, order], rtol=1e-4, atol=1e-4)


def test_tuned_blocks_start_as_the_whole_encoder(backbone: Backbone) -> None:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = AdaptedModel(backbone, 3, Adaptation())
    torch.manual_seed(0)
    tuned = AdaptedModel(backbone, 3, Adaptation(encoder_blocks=1))
    tuned.decoder.load_state_dict(plain.decoder.state_dict())
    with torch.no_grad():
        wanted = plain(backbone.encode(images))
        found = tuned(backbone.encode(images, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    own = {n for n in tuned.learned_state() if n.startswith("tail.")}
    assert own == {f"tail.blocks.0.attn.qkv.{p}.lora_{x}" for p in ("query", "value") for x in "ab"}


def test_learned_weights_move_to_another_model_bit_for_bit(backbone: Backbone) -> None:
    features = embeddings(backbone)
    for adaptation in (Adaptation(), Adaptation(lora_rank=0), Adaptation(lora_rank=2)):
        one = shaken(AdaptedModel(backbone, 3, adaptation))
        other = AdaptedModel(backbone, 3, adaptation)
        assert not torch.equal(one(features), other(features))
        other.load_learned_state(one.learned_state())
        assert torch.equal(one(features), other(features))


def test_learned_state_is_a_copy(backbone: Backbone) -> None:
    model = AdaptedModel(backbone, 3, Adaptation())
    state = model.learned_state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    shaken(model)
    assert all(torch.equal(state[name], before[name]) for name in state)


@pytest.mark.parametrize("change", ["rank", "classes", "missing", "more"])
def test_weights_of_another_kind_are_refused_and_nothing_is_changed(
    backbone: Backbone, change: str
) -> None:
    model = AdaptedModel(backbone, 3, Adaptation(lora_rank=4))
    before = model.learned_state()
    state = shaken(
        AdaptedModel(
            backbone,
            4 if change == "classes" else 3,
            Adaptation(lora_rank=2 if change == "rank" else 4),
        )
    ).learned_state()
    if change == "missing":
        del state["prompt_embedding"]
    if change == "more":
        state["another"] = torch.zeros(1)
    first = {"rank": "transformer", "classes": "mask_tokens", "missing": "prompt", "more": "other"}
    with pytest.raises(SAMAutoSegError, match=rf"do not fit: \d+ tensors .*{first[change]}"):
        model.load_learned_state(state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.learned_state().items())


def test_one_class_is_no_segmentation(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="1 classes: expected the background and a structure"):
        AdaptedModel(backbone, 1, Adaptation())


def test_an_adaptation_comes_back_from_json() -> None:
    adaptation = Adaptation(lora_rank=8, encoder_blocks=2, token_init="sam")
    assert Adaptation.from_json(adaptation.to_json()) == adaptation
    with pytest.raises(SAMAutoSegError, match="adaptation entry 'side' is not known"):
        Adaptation.from_json({"side": 3})
