import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from SAMAutoSegLib.adapt import adapted_file
from SAMAutoSegLib.adapt.adapted_file import (
    Adapted,
    ModelCard,
    load_adapted,
    read_card,
    save_adapted,
)
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.adapt.heads import HeadName
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import standard_structures
from SAMAutoSegLib.sam import checkpoint
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.sam.input_spec import InputSpec


@pytest.fixture
def backbone(tiny_file: Path) -> Backbone:
    return load_backbone(tiny_file, device="cpu", precision=torch.float32)


@pytest.fixture
def adapted(backbone: Backbone) -> Adapted:
    adaptation = Adaptation(lora_rank=2, encoder_blocks=1)
    model = AdaptedModel(backbone, 3, adaptation).eval()
    with torch.no_grad():
        for parameter in (*model.weights(), model.prompt_embedding):
            parameter += 0.05 * torch.randn(parameter.shape)
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=InputSpec(side=128, padding="center", aspect="stretch"),
        intensity=Intensity("percentile", 0.5, 99.5),
        plane="sagittal",
        adaptation=adaptation,
        structures=tuple(standard_structures(["liver", "gro\u00dfe Zyste"])),
        method="blo-sam",
        settings={"steps": 150, "split": "rotate"},
        provenance={"date": "2026-01-02", "images": [{"name": "a", "slices": [3, 9]}]},
    )
    return Adapted(model, card, backbone)


@pytest.fixture
def file(adapted: Adapted, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_adapted(path, adapted)
    return path


def rewritten(path: Path, **header: str | None) -> None:
    """The same tensors with other header entries."""
    with safe_open(path, framework="pt") as opened:
        entries = {**opened.metadata(), **header}
    save_file(load_file(path), path, {name: text for name, text in entries.items() if text})


def test_reading_back_gives_the_logits_bit_for_bit(
    adapted: Adapted, backbone: Backbone, file: Path, tiny_file: Path
) -> None:
    card = adapted.card
    again = load_adapted(file, base=tiny_file, device="cpu", precision=torch.float32)
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        wanted = adapted.model(backbone.encode(images, 1))
        assert torch.equal(again.model(again.backbone.encode(images, 1)), wanted)
    assert again.card == card == read_card(file)
    assert again.backbone.spec == card.input
    assert not again.model.training


def test_the_pixel_branch_is_read_back_with_its_input(
    adapted: Adapted, backbone: Backbone, file: Path, tiny_file: Path
) -> None:
    card = replace(adapted.card, adaptation=Adaptation(pixel_side=64))
    backbone.spec = card.input
    model = AdaptedModel(backbone, 3, card.adaptation).eval()
    save_adapted(file, Adapted(model, card, backbone))
    again = load_adapted(file, base=tiny_file, device="cpu", precision=torch.float32).model
    image = np.random.default_rng(0).integers(0, 256, (50, 40), dtype=np.uint8)
    low_res = torch.randn(3, 32, 32)
    with torch.inference_mode():
        wanted, found = (
            either.slice_logits(low_res, image, card.input) for either in (model, again)
        )
    assert torch.equal(found, wanted)
    assert again.pixels is not None and again.pixels.spec == replace(card.input, side=64)


@pytest.mark.parametrize("head", ["auto-vit", "auto-vit-tokens", "auto-cnn-small", "auto-linear"])
def test_every_head_is_read_back_bit_for_bit(
    adapted: Adapted,
    backbone: Backbone,
    tmp_path: Path,
    tiny_file: Path,
    head: HeadName,
) -> None:
    card = replace(adapted.card, adaptation=Adaptation(lora_rank=0, head=head))
    model = AdaptedModel(backbone, 3, card.adaptation).eval()
    path = tmp_path / "head.safetensors"
    save_adapted(path, Adapted(model, card, backbone))
    again = load_adapted(path, base=tiny_file, device="cpu", precision=torch.float32)
    features = backbone.encode(torch.randn(2, 3, 128, 128))
    with torch.inference_mode():
        assert torch.equal(again.model(features), model(features))
    assert again.card == card


def test_the_file_holds_what_was_learned_and_no_backbone(adapted: Adapted, file: Path) -> None:
    tensors, learned = load_file(file), adapted.model.learned_state()
    assert tensors.keys() == learned.keys()
    assert all(torch.equal(tensors[name], learned[name]) for name in learned)


def test_another_backbone_is_refused(
    file: Path, tiny_file: Path, tmp_path: Path, adapted: Adapted
) -> None:
    tensors = torch.load(tiny_file, weights_only=True)
    tensors["prompt_encoder.no_mask_embed.weight"] += 1
    other = tmp_path / "other.pth"
    torch.save(tensors, other)
    with pytest.raises(SAMAutoSegError, match=r"was trained on the backbone checkpoint.pth .*, no"):
        load_adapted(file, base=other, device="cpu")


def test_another_backbone_is_named_even_if_it_cannot_have_the_side(
    adapted: Adapted, tiny_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.safetensors"
    card = replace(adapted.card, backbone_sha256="0" * 64, input=InputSpec(side=256))
    save_adapted(path, replace(adapted, card=card))
    with pytest.raises(SAMAutoSegError, match="was trained on the backbone"):
        load_adapted(path, base=tiny_file, device="cpu")


def test_the_file_of_the_backbone_is_hashed_once(
    file: Path, tiny_file: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return sha256_of_file(path)

    for module in (adapted_file, checkpoint):
        monkeypatch.setattr(module, "sha256_of_file", noted)
    again = load_adapted(file, base=tiny_file, device="cpu")
    assert hashed == [tiny_file] and again.backbone.sha256 == backbone.sha256


def test_a_backbone_the_catalogue_does_not_have_must_be_named(file: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="nor in the model folder: name its file with --base"):
        load_adapted(file, device="cpu")


def test_a_backbone_of_ones_own_is_found_in_the_model_folder(
    file: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    (folder / "another.pth").write_bytes(b"another")
    (folder / "gone.pth").symlink_to(tmp_path / "gone")
    (folder / "folder.pth").mkdir()
    tiny_file.rename(folder / "my sam.pth")
    for base in (None, "my sam", "my sam.pth"):
        assert load_adapted(file, base=base, precision=torch.float32).backbone.sha256
        assert base is None or load_backbone(base, device="cpu").family == "vit_b"


def test_a_backbone_that_is_not_fetched_yet_is_named(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    from SAMAutoSegLib.sam.catalog import get

    path = tmp_path / "model.safetensors"
    card = replace(adapted.card, backbone_sha256=get("lite-medsam").sha256)
    save_adapted(path, replace(adapted, card=card))
    with pytest.raises(SAMAutoSegError, match="samautoseg models fetch lite-medsam"):
        load_adapted(path, device="cpu")


def test_a_plain_sam_knows_no_structures(tiny_file: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="knows no structures yet: teach it some"):
        load_adapted(tiny_file, device="cpu")
    with pytest.raises(SAMAutoSegError, match="lite-medsam is a plain SAM"):
        read_card("lite-medsam")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_file_that_is_cut_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SAMAutoSegError, match=r"damaged or cut short|is not a checkpoint"):
        read_card(file)


def test_other_tensors_are_no_adapted_model(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(SAMAutoSegError, match="is not an adapted model: expected a file that"):
        read_card(path)


def test_a_newer_format_asks_for_an_update(file: Path) -> None:
    rewritten(file, format_version="2")
    with pytest.raises(SAMAutoSegError, match="format version 2, this program reads 1: update"):
        read_card(file)


@pytest.mark.parametrize("card", [None, "{", "[]", "5", '{"backbone": "x"}', '{"more": 1}'])
def test_a_damaged_card_is_one_line(file: Path, card: str | None) -> None:
    rewritten(file, card=card)
    with pytest.raises(SAMAutoSegError) as refused:
        read_card(file)
    assert "\n" not in str(refused.value) and "header" in str(refused.value)


def altered(file: Path, **entries: object) -> None:
    """The same model with other entries of its card."""
    with safe_open(file, framework="pt") as opened:
        card = json.loads(opened.metadata()["card"])
    rewritten(file, card=json.dumps({**card, **entries}))


ORGAN = {"label": 1, "name": "liver", "color": [0.1, 0.2, 1]}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"plane": "diagonal"}, "the plane 'diagonal': not axial, coronal, sagittal"),
        ({"plane": ["axial"]}, "the plane"),
        ({"structures": []}, "structures of the labels \\[\\]: expected one or more"),
        ({"structures": [ORGAN, {**ORGAN, "name": "spleen"}]}, "labels \\[1, 1\\].*all different"),
        ({"structures": ["liver"]}, "not a structure with label"),
        ({"structures": [{**ORGAN, "label": 0}]}, "not a structure with label \\(1 to 65535\\)"),
        ({"structures": [{**ORGAN, "label": 70000}]}, "not a structure with label"),
        ({"structures": [{**ORGAN, "label": 1.5}]}, "not a structure with label"),
        ({"structures": [{**ORGAN, "label": float("inf")}]}, "not a structure with label"),
        ({"structures": [{**ORGAN, "color": [0, float("nan"), 0]}]}, "each 0 to 1"),
        ({"structures": [{**ORGAN, "color": [0, 255, 0]}]}, "each 0 to 1"),
        ({"structures": None}, "header is incomplete"),
        ({"provenance": ["trained"]}, "no entries under 'provenance'"),
        ({"settings": 5}, "no entries under 'settings'"),
        ({"input": "as usual"}, "input specification|incomplete"),
        ({"adaptation": 5}, "incomplete"),
        ({"intensity": {"kind": "window"}}, "not an intensity"),
    ],
)
def test_a_card_that_says_what_cannot_be_is_refused_with_the_file(
    file: Path, entries: dict[str, object], said: str
) -> None:
    altered(file, **entries)
    with pytest.raises(SAMAutoSegError, match=f"{file.name}: .*{said}") as refused:
        read_card(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_learned_weights_that_are_no_numbers_are_refused(
    file: Path, tiny_file: Path, value: float
) -> None:
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    name = min(tensors)
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, header)
    said = f"{file.name} is damaged: its tensor {name} has values that are no numbers"
    with pytest.raises(SAMAutoSegError, match=said):
        load_adapted(file, base=tiny_file, device="cpu")


def test_tensors_that_do_not_belong_to_the_card_are_refused(file: Path, tiny_file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        card = json.loads(opened.metadata()["card"])
    card["adaptation"]["lora_rank"] = 4
    rewritten(file, card=json.dumps(card))
    with pytest.raises(SAMAutoSegError, match=f"{file.name}: the learned weights do not fit"):
        load_adapted(file, base=tiny_file, device="cpu")


def test_a_file_that_was_there_survives_a_failed_save(
    adapted: Adapted, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(SAMAutoSegError, match="cannot write .*model.safetensors: No space left"):
        save_adapted(file, adapted)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.glob("*.safetensors")] == [file.name]


def test_a_card_comes_back_from_json(adapted: Adapted) -> None:
    card = adapted.card
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
