"""Files of BLO-SAM, MetaTune and SAMed give the logits that those programs give.

`foreign_checkpoint_reference.json` holds, for each layout, the names and shapes of the tensors in a
file that the program itself wrote for a tiny SAM, and logits [3, 32, 32] of its forward pass, every
fourth row and column. The values of all tensors come from `filled`, on either side.
"""

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import load_adapted, read_card, save_adapted
from SAMAutoSegLib.adapt.foreign_checkpoint import import_adapted
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity

REFERENCE = json.loads((Path(__file__).parent / "foreign_checkpoint_reference.json").read_text())
LAYOUTS = list(REFERENCE)
INTENSITY = Intensity("window", 0, 255)
ATTENTIONS = {
    "self_attn": "sa",
    "cross_attn_token_to_image": "cti",
    "cross_attn_image_to_token": "cit",
}


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        values = name.endswith("weight") + 0.1 * values
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def learned(layout: str, name: str, shape: list[int]) -> Tensor:
    """A tensor of the file: updates and what is trained have values of their own."""
    update = re.fullmatch(r".*\.(\w+)\.([qv])_proj\.w_([ab])\.weight", name)
    if update:
        attention, which, letter = update.groups()
        if attention == "final_attn_token_to_image":
            name = f"fati_{which}{letter}"
        else:
            number = 2 * int(name.split(".")[3]) + (which == "v")
            name = f"{ATTENTIONS[attention]}_{letter}_{number:03d}"
    elif name == "no_mask_embed":
        name = "prompt_encoder.no_mask_embed.weight"
    elif name.startswith("prompt_encoder.pe_layer"):
        return filled(name, tuple(shape))
    elif layout != "samed" and "transformer" in name:
        return filled(name.replace("_proj.proj.", "_proj."), tuple(shape))
    return filled(f"learned {name}", tuple(shape))


@pytest.fixture
def base(tiny_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "base.pth"
    tensors = torch.load(tiny_file, weights_only=True)
    torch.save({name: filled(name, tuple(t.shape)) for name, t in tensors.items()}, path)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the file of a layout, with some tensors replaced or, where None, left out."""

    def build(layout: str, **changes: Tensor | None) -> Path:
        tensors = {
            name: learned(layout, name, shape)
            for name, shape in REFERENCE[layout]["tensors"].items()
        }
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        tensors = {n: t for n, t in (tensors | changed).items() if t is not None}
        path = tmp_path / "learned.pth"
        torch.save(tensors, path)
        return path

    return build


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_program_that_wrote_the_file(
    layout: str, base: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    imported, report = import_adapted(
        write(layout),
        base,
        intensity=INTENSITY,
        plane="coronal",
        structures=("a", "b"),
        side=128,
        device="cpu",
    )
    save_adapted(tmp_path / "model.safetensors", imported)
    again = load_adapted(
        tmp_path / "model.safetensors", base=base, device="cpu", precision=torch.float32
    )
    model, card = again.model, again.card
    image = torch.sigmoid(filled("image", (1, 3, 128, 128)) * 30)

    with torch.inference_mode():
        logits = model(again.backbone.encode(image, model.adaptation.encoder_blocks))

    expected = torch.tensor(REFERENCE[layout]["logits"]).view(3, 8, 8)
    assert (logits[0, :, ::4, ::4] - expected).abs().max() < 1e-5
    assert [structure.name for structure in card.structures] == ["a", "b"]
    assert (card.intensity, card.plane) == (INTENSITY, "coronal")
    assert card.input.normalization == "unit" and card.input.aspect == "stretch"
    assert card.provenance["imported_from"] == "learned.pth"
    assert ("SAMed" if layout == "samed" else "BLO-SAM or MetaTune") in report[0]


def test_the_side_is_the_programs_default_unless_told(
    base: Path, write: Callable[..., Path]
) -> None:
    for layout, side in (("blo-sam decoder", 256), ("samed", 512)):
        imported, report = import_adapted(write(layout), base, intensity=INTENSITY, device="cpu")
        assert imported.card.input.side == side
        assert "the file does not tell" in report[1]


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("blo-sam decoder", "mask_decoder.transformer.layers.0.mlp.lin1.weight"),
        ("blo-sam all", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        ("samed", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ],
)
def test_a_file_learned_on_another_sam_is_refused(
    layout: str, name: str, base: Path, write: Callable[..., Path]
) -> None:
    file = write(layout, **{name: torch.ones(tuple(REFERENCE[layout]["tensors"][name]))})
    with pytest.raises(SAMAutoSegError, match=rf"not learned on base\.pth: {name} differs"):
        import_adapted(file, base, intensity=INTENSITY, side=128)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_in_half_precision_is_read(
    layout: str, base: Path, write: Callable[..., Path]
) -> None:
    file = write(layout)
    torch.save({n: t.half() for n, t in torch.load(file, weights_only=True).items()}, file)
    imported, report = import_adapted(file, base, intensity=INTENSITY, side=128, device="cpu")
    assert any(line.endswith("frozen tensors are those of base.pth") for line in report)
    assert imported.model.prompt_embedding.dtype == torch.float32


def test_copies_that_differ_are_refused(base: Path, write: Callable[..., Path]) -> None:
    file = write("blo-sam decoder", sa_a_001=torch.zeros(3, 256))
    with pytest.raises(SAMAutoSegError, match="contradicts itself: sa_a_001"):
        import_adapted(file, base, intensity=INTENSITY, side=128)


def test_a_file_without_its_decoder_is_refused(base: Path, write: Callable[..., Path]) -> None:
    file = write("samed", mask_decoder__mask_tokens__weight=None)
    with pytest.raises(SAMAutoSegError, match="lacks its mask decoder"):
        import_adapted(file, base, intensity=INTENSITY, side=128)


@pytest.mark.parametrize("name", ["w_a_000", "w_b_001"])
def test_a_missing_update_is_named(name: str, base: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(SAMAutoSegError, match=f"lacks {name}"):
        import_adapted(write("samed", **{name: None}), base, intensity=INTENSITY, side=128)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_a_training_that_had_failed_is_refused(
    layout: str, base: Path, write: Callable[..., Path]
) -> None:
    name = "mask_decoder.mask_tokens.weight"
    tokens = torch.full(tuple(REFERENCE[layout]["tensors"][name]), float("nan"))
    with pytest.raises(SAMAutoSegError, match=rf"no numbers \({name}\): its training had failed"):
        import_adapted(write(layout, **{name: tokens}), base, intensity=INTENSITY, side=128)


def test_tensors_of_no_known_name_do_no_harm(base: Path, write: Callable[..., Path]) -> None:
    strange = {name: torch.ones(2) for name in ("sa_x", "sa_a_last", "fati_", "cit_c_000")}
    file = write("blo-sam decoder", **strange)
    imported, _ = import_adapted(file, base, intensity=INTENSITY, side=128, device="cpu")
    assert imported.card.adaptation.lora_rank == 3


def test_names_have_to_match_the_structures(base: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(SAMAutoSegError, match=r"1 names of structures: .* has 2 structures"):
        import_adapted(write("samed"), base, intensity=INTENSITY, side=128, structures=("liver",))
    with pytest.raises(SAMAutoSegError, match="structures left, Left: give each a name of its own"):
        import_adapted(
            write("samed"), base, intensity=INTENSITY, side=128, structures=("left", "Left")
        )


def test_another_kind_of_file_is_refused(base: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="no file of BLO-SAM, MetaTune or SAMed"):
        import_adapted(base, base, intensity=INTENSITY, side=128)


def test_the_command_converts_and_tells_what_it_found(
    base: Path, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    given = ["convert", str(write("samed")), "--base", str(base), "--side", "128", "-o", str(out)]

    assert main([*given, "--structures", "left, right"]) == 0

    assert "is a file of SAMed" in capsys.readouterr().out
    assert [structure.name for structure in read_card(out).structures] == ["left", "right"]
    assert main([*given[:-1], str(base)]) == 2
    assert "read by this very command" in capsys.readouterr().err
