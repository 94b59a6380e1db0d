import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.architecture import Parts, resize_positions, state_shapes
from SAMAutoSegLib.sam.checkpoint import load_backbone, read_checkpoint, recognize
from SAMAutoSegLib.sam.vit_fast import relative_table

FAMILIES = ["vit_b", "vit_l", "vit_h"]


def on_meta(family: str, side: int, stem_stride: int = 2) -> dict[str, torch.Tensor]:
    shapes = state_shapes(family, side, stem_stride)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_shapes_are_those_of_upstream(family: str, segment_anything: object) -> None:
    with torch.device("meta"):
        theirs = segment_anything.sam_model_registry[family]().state_dict()
    assert state_shapes(family, 1024) == {name: tuple(t.shape) for name, t in theirs.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [448, 672, 896, 1024])
def test_every_vit_can_be_resized_to_every_offered_side(family: str, side: int) -> None:
    resized = resize_positions(on_meta(family, 1024), family, side)
    assert {name: tuple(t.shape) for name, t in resized.items()} == state_shapes(family, side)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_side_of_the_checkpoint_nothing_is_touched(family: str) -> None:
    tensors = on_meta(family, 1024)
    resized = resize_positions(tensors, family, 1024)
    assert all(resized[name] is tensor for name, tensor in tensors.items())


def test_only_windowless_blocks_get_other_tables() -> None:
    # Blocks 2, 8, 12 ... of ViT-L have a digit of a global block in their name.
    before, after = on_meta("vit_l", 1024), resize_positions(on_meta("vit_l", 1024), "vit_l", 448)
    changed = {
        n.split(".")[2] for n in before if "rel_pos" in n and before[n].shape != after[n].shape
    }
    assert changed == {"5", "11", "17", "23"}


def test_tables_resized_at_loading_are_those_upstream_resizes_at_run_time(
    tiny_file: Path, segment_anything: object
) -> None:
    tensors = read_checkpoint(tiny_file).tensors
    name = "image_encoder.blocks.1.attn.rel_pos_h"
    resized = resize_positions(tensors, "vit_b", 448)[name]
    wanted = segment_anything.modeling.image_encoder.get_rel_pos(28, 28, tensors[name])
    assert resized.shape == (55, 16)
    torch.testing.assert_close(relative_table(resized, 28), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "stride", "side", "words"),
    [
        ("vit_b", 2, 1024, "SAM ViT-B, side 1024"),
        ("vit_l", 2, 1024, "SAM ViT-L, side 1024"),
        ("vit_h", 2, 512, "SAM ViT-H, side 512"),
        ("vit_t", 2, 1024, "MobileSAM (TinyViT)"),
        ("vit_t", 1, 256, "LiteMedSAM (TinyViT, side 256)"),
    ],
)
def test_a_checkpoint_is_recognized_by_its_tensors(
    family: str, stride: int, side: int, words: str
) -> None:
    found = recognize(on_meta(family, side, stride))
    assert (found.family, found.side, found.words) == (family, side, words)
    assert not found.missing and not found.unexpected and not found.adapted
    assert found.normalization == ("unit" if stride == 1 else "sam")


def test_the_classifier_left_in_mobile_sam_files_is_no_surprise() -> None:
    tensors = on_meta("vit_t", 1024)
    tensors["image_encoder.head.weight"] = torch.empty(1, 320, device="meta")
    tensors["image_encoder.norm_head.weight"] = torch.empty(320, device="meta")
    assert recognize(tensors).unexpected == ()


def test_files_of_adapted_weights_are_told_from_backbones() -> None:
    blo_sam = {"sa_a_000": torch.empty(4, 256), "fati_qa": torch.empty(4, 256)}
    lora = {"w_a_000": torch.empty(4, 768), "no_mask_embed": torch.empty(1, 256)}
    assert recognize(blo_sam).adapted and "BLO-SAM" in recognize(blo_sam).words
    assert recognize(lora).adapted and "encoder-LoRA" in recognize(lora).words
    assert recognize({"conv.weight": torch.empty(1)}).family is None


def test_missing_and_unexpected_tensors_are_named() -> None:
    tensors = on_meta("vit_t", 256, 1)
    del tensors["mask_decoder.iou_token.weight"]
    tensors["mask_decoder.mask_tokens.weight"] = torch.empty(7, 256, device="meta")
    tensors["image_encoder.adapter.weight"] = torch.empty(3, device="meta")
    found = recognize(tensors)
    assert found.missing == ("mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight")
    assert found.unexpected == ("image_encoder.adapter.weight", "mask_decoder.mask_tokens.weight")


@pytest.mark.parametrize("layout", ["plain", "wrapped", "parallel", "safetensors", "old pickle"])
def test_every_layout_of_the_same_tensors_loads_to_the_same_model(
    layout: str, tiny_file: Path, tmp_path: Path
) -> None:
    tensors = read_checkpoint(tiny_file).tensors
    path = tmp_path / "vit_h.txt"  # a name that says something else
    if layout == "safetensors":
        save_file(tensors, path)
    elif layout == "old pickle":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        wrapped = {
            "plain": tensors,
            "wrapped": {"model": tensors, "epoch": 3},
            "parallel": {f"module.{name}": tensor for name, tensor in tensors.items()},
        }
        torch.save(wrapped[layout], path)
    images = torch.randn(1, 3, 128, 128)

    wanted = load_backbone(tiny_file, device="cpu", precision=torch.float32)
    found = load_backbone(path, device="cpu", precision=torch.float32)

    assert found.family == "vit_b"
    assert torch.equal(found.encode(images), wanted.encode(images))


def test_a_loaded_backbone_gives_upstreams_embedding_bit_for_bit(
    tiny_file: Path, tiny_parts: Callable[..., Parts]
) -> None:
    images = torch.randn(1, 3, 128, 128)
    backbone = load_backbone(tiny_file, device="cpu", attention="reference")
    with torch.no_grad():
        assert torch.equal(backbone.encode(images), tiny_parts().image_encoder(images))


def test_the_file_can_be_replaced_while_its_model_is_in_use(tiny_file: Path) -> None:
    backbone = load_backbone(tiny_file, device="cpu")
    images = torch.randn(1, 3, 128, 128)
    before = backbone.encode(images)
    tiny_file.write_bytes(b"\0" * tiny_file.stat().st_size)
    backbone.to("cpu")  # the fast form of the encoder is made again
    assert torch.equal(backbone.encode(images), before)


def test_another_side_is_taken_where_the_family_has_it(tiny_file: Path) -> None:
    backbone = load_backbone(tiny_file, side=448, device="cpu")
    assert backbone.embedding_side == 28 and backbone.spec.side == 448
    assert backbone.encode(torch.zeros(1, 3, 448, 448)).shape == (1, 256, 28, 28)
    with pytest.raises(SAMAutoSegError, match="input side 500: .* can have 128, 448, 672, 896"):
        load_backbone(tiny_file, side=500, device="cpu")


def test_an_incomplete_or_altered_model_is_not_loaded(tiny_file: Path) -> None:
    tensors = read_checkpoint(tiny_file).tensors
    removed = tensors.pop("prompt_encoder.no_mask_embed.weight")
    torch.save(tensors, tiny_file)
    with pytest.raises(SAMAutoSegError, match="lacks 1 tensors .first: prompt_encoder.no_mask"):
        load_backbone(tiny_file, device="cpu")
    tensors["prompt_encoder.no_mask_embed.weight"] = removed
    tensors["image_encoder.blocks.0.adapter.weight"] = removed
    torch.save(tensors, tiny_file)
    with pytest.raises(SAMAutoSegError, match="1 unexpected tensors .first: image_encoder.blocks"):
        load_backbone(tiny_file, device="cpu")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("layout", ["zip", "old", "plain pickle", "inside a state dict"])
def test_a_pickle_that_would_run_code_is_refused_unexecuted(layout: str, tmp_path: Path) -> None:
    trap, path = Trap(tmp_path / "it ran"), tmp_path / "model.pth"
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps(trap))
    elif layout == "inside a state dict":
        torch.save({"image_encoder.pos_embed": torch.zeros(2), "extra": trap}, path)
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=layout == "zip")

    with pytest.raises(SAMAutoSegError, match="could run code: refused") as caught:
        read_checkpoint(path)

    assert not (tmp_path / "it ran").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["pth", "old pth", "safetensors"])
@pytest.mark.parametrize("part", [0.5, 0.98, 0.01], ids=["half", "nearly all", "the start"])
def test_a_file_cut_short_is_called_damaged(
    layout: str, part: float, tiny_file: Path, tmp_path: Path
) -> None:
    tensors = read_checkpoint(tiny_file).tensors
    path = tmp_path / "cut"
    if layout == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=layout == "pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SAMAutoSegError, match="damaged or cut short") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_changed_byte_among_the_weights_is_noticed(tiny_file: Path, place: float) -> None:
    content = bytearray(tiny_file.read_bytes())
    content[int(len(content) * place)] ^= 4
    tiny_file.write_bytes(content)
    with pytest.raises(SAMAutoSegError, match="damaged or cut short"):
        read_checkpoint(tiny_file)


@pytest.mark.parametrize("wrapped", [True, False])
def test_tensors_without_a_name_do_not_count(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "x.pth"
    tensors = {1: torch.zeros(3), ("a", 2): torch.zeros(3), "weight": torch.ones(2)}
    torch.save({"model": tensors} if wrapped else tensors, path)
    assert list(read_checkpoint(path).tensors) == ["weight"]
    torch.save({1: torch.zeros(3)}, path)
    with pytest.raises(SAMAutoSegError, match="holds no named tensors"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    text = tmp_path / "weights.pth"
    text.write_text("These are not the weights you are looking for.")
    empty = tmp_path / "empty.pth"
    empty.touch()
    tensor = tmp_path / "tensor.pth"
    torch.save(torch.zeros(3), tensor)
    for path, words in [
        (text, "is not a checkpoint"),
        (empty, "is empty"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.pth", "no checkpoint at"),
        (tensor, "holds no named tensors"),
    ]:
        with pytest.raises(SAMAutoSegError, match=words) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_catalogue_name_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite-medsam").mkdir()  # as to fetch it --from-folder
    with pytest.raises(SAMAutoSegError, match="samautoseg models fetch lite-medsam"):
        load_backbone("lite-medsam", device="cpu")
