"""Checkpoint files: read without running their code, recognized by their tensors, loaded."""

import json
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from SAMAutoSegLib.device import choose_device, choose_precision
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.architecture import (
    FAMILY_NAMES,
    PATCH,
    VIT_SHAPES,
    VIT_SIDES,
    build_parts,
    resize_positions,
    state_shapes,
)
from SAMAutoSegLib.sam.backbone import Attention, Backbone, Family
from SAMAutoSegLib.sam.input_spec import INPUT_HEADER, InputSpec, Normalization

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")

# Window attention pads at these, so they are not offered; files of other programs need them.
IMPORTED_SIDES = (256, 512)

# Left over in published files and without a part in segmentation: the classifier of TinyViT's
# pre-training, index tables that the architecture determines, the constants of Sam itself.
IGNORED = (
    "image_encoder.norm_head.",
    "image_encoder.head.",
    "pixel_mean",
    "pixel_std",
)
IGNORED_ENDINGS = (".attention_bias_idxs",)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors by name, and the text header of a safetensors file."""

    tensors: dict[str, Tensor]
    header: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognition:
    """What a set of tensors is.

    Attributes:
        words: what it is in one plain phrase.
        family: 'vit_b', 'vit_l', 'vit_h', 'vit_t', or None where no encoder was recognized.
        side: the input side the tensors belong to; None without an encoder.
        stem_stride: 1 for LiteMedSAM's stem, else 2.
        adapted: holds what was learned on top of a backbone.
        missing, unexpected: names of tensors relative to a whole SAM of the family, with the
            tensors of a wrong shape in both.
    """

    words: str
    family: Family | None = None
    side: int | None = None
    stem_stride: int = 2
    adapted: bool = False
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def normalization(self) -> Normalization:
        """How the family's published training fed its images; a catalogue entry may differ."""
        return "unit" if self.stem_stride == 1 else "sam"

    @property
    def sides(self) -> tuple[int, ...]:
        """The input sides that are offered; none without an encoder."""
        if self.family is None or self.side is None:
            return ()
        if self.family == "vit_t":
            return (self.side,)
        return tuple(sorted({*VIT_SIDES, self.side}))


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the tensors of a .pth/.pt or safetensors file, whatever its name, running none of it.

    Raises:
        SAMAutoSegError: missing, not a checkpoint, cut short or damaged, or holding Python
            objects that are not tensors (such a pickle could run code; it is not run).
    """
    source = Path(path)
    start = _first_bytes(source)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < source.stat().st_size:
        return _read_safetensors(source)
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise SAMAutoSegError(
            f"{source} is not a checkpoint: expected a PyTorch .pth or a .safetensors file"
        )
    if start.startswith(b"PK"):
        _require_intact(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is told in one error
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise SAMAutoSegError(
                f"{source} holds Python objects other than tensors, which could run code: refused, "
                "nothing of it was run; use a file of tensors only"
            ) from error
        raise _damaged(source) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, IndexError) as error:
        raise _damaged(source) from error
    return Checkpoint(_tensors_in(content, source))


def recognize(tensors: Mapping[str, Tensor]) -> Recognition:
    """Tell from names and shapes what tensors are; file names play no part."""
    names = tensors.keys()
    stem = tensors.get("image_encoder.patch_embed.seq.0.c.weight")
    family: Family | None = "vit_t" if stem is not None else _vit_family(tensors)
    if stem is not None:
        stride = 1 if tuple(stem.shape[-2:]) == (1, 1) else 2
        side = 256 if stride == 1 else 1024
        words = "LiteMedSAM (TinyViT, side 256)" if stride == 1 else "MobileSAM (TinyViT)"
    elif family is not None:
        stride = 2
        side = PATCH * tensors["image_encoder.pos_embed"].shape[1]
        words = f"{FAMILY_NAMES[family]}, side {side}"
    if family is None:
        return _recognize_without_encoder(tensors)
    expected = state_shapes(family, side, stride)
    wrong = {n for n in names if n in expected and tuple(tensors[n].shape) != expected[n]}
    missing = [n for n in expected if n not in names or n in wrong]
    unexpected = [n for n in names if (n not in expected or n in wrong) and not _ignored(n)]
    lora = any(".w_a." in n or ".linear_a_q" in n for n in names)
    words += ", with LoRA tensors" if lora else ""
    return Recognition(
        words, family, side, stride, lora, tuple(sorted(missing)), tuple(sorted(unexpected))
    )


def load_backbone(
    source: str | os.PathLike[str],
    *,
    side: int | None = None,
    normalization: Normalization | None = None,
    device: torch.device | str = "auto",
    precision: torch.dtype | None = None,
    attention: Attention = "fast",
    sha256: str | None = None,
) -> Backbone:
    """Load a SAM from a file or by its name in the catalogue.

    Args:
        source: path, or a catalogue name whose file has been fetched.
        side: input side in pixels, one of 448, 672, 896, 1024 for the ViTs; by default the side
            the checkpoint was trained with. TinyViT has one side only.
        normalization: by default what the file's header says, the catalogue's for a known file, or
            the family's usual one.
        device: a device or its name, see `choose_device`.
        precision: of the encoder; by default `choose_precision(device)`.
        attention: 'reference' computes upstream's operations bit for bit, in float32.
        sha256: of the file, where it is known: computed for a large one it takes seconds.

    Raises:
        SAMAutoSegError: unreadable file, not a whole SAM, or a side it cannot have.
    """
    path = locate(source)
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.tensors
    found = recognize(tensors)
    if found.family is None or found.side is None:
        raise SAMAutoSegError(
            f"{path} is {found.words}, not a SAM backbone: expected image encoder, prompt encoder "
            "and mask decoder in one file"
        )
    strange = [name for name in found.unexpected if name.startswith(PARTS)]
    if found.missing or strange:
        lacking = f"lacks {len(found.missing)} tensors" if found.missing else ""
        extra = f"has {len(strange)} unexpected tensors" if strange else ""
        first = (found.missing or strange)[0]
        raise SAMAutoSegError(
            f"{path} looks like {found.words} but {' and '.join(filter(None, (lacking, extra)))} "
            f"(first: {first}): use a whole, unmodified SAM checkpoint"
        )
    chosen = _choose_side(found, side)
    if found.family != "vit_t":
        tensors = resize_positions(tensors, found.family, chosen)
    # A ViT is built without memory of its own and takes over the tensors that were read; TinyViT
    # computes index tables when it is built, so it is built for real.
    with torch.device("cpu" if found.family == "vit_t" else "meta"):
        parts = build_parts(found.family, chosen, found.stem_stride)
    for part in PARTS:
        module = getattr(parts, part[:-1])
        module.load_state_dict(
            {name: _single(tensors[part + name]) for name in module.state_dict()}, assign=True
        )
    digest = sha256 or sha256_of_file(path)
    entry = catalog.find_by_sha256(digest)
    usual = input_told(checkpoint) or InputSpec(
        normalization=entry.normalization if entry else found.normalization
    )
    spec = replace(usual, side=chosen, normalization=normalization or usual.normalization)
    target = choose_device(device) if isinstance(device, str) else device
    return Backbone(
        parts,
        family=found.family,
        spec=spec,
        name=entry.name if entry else path.name,
        sha256=digest,
        license=entry.license if entry else None,
        device=target,
        precision=precision or choose_precision(target),
        attention=attention,
    )


def input_told(checkpoint: Checkpoint) -> InputSpec | None:
    """The input that a SAM's own header tells, as `save_merged` writes it."""
    text = checkpoint.header.get(INPUT_HEADER)
    if text is None:
        return None
    try:
        return InputSpec.from_json(dict(json.loads(text)))
    except (TypeError, ValueError) as error:
        raise SAMAutoSegError(
            f"the file's header says of its input {text!r}: expected an input specification"
        ) from error


def _first_bytes(source: Path) -> bytes:
    if source.is_dir():
        raise SAMAutoSegError(f"{source} is a folder: name the checkpoint file in it")
    try:
        with source.open("rb") as stream:
            start = stream.read(16)
    except FileNotFoundError as error:
        names = ", ".join(entry.name for entry in catalog.entries())
        raise SAMAutoSegError(
            f"no checkpoint at {source}: check the path, or name one of {names}"
        ) from error
    except OSError as error:
        raise SAMAutoSegError(f"cannot read {source}: {error.strerror}") from error
    if not start:
        raise SAMAutoSegError(f"{source} is empty: download or copy it again")
    return start


def _damaged(source: Path) -> SAMAutoSegError:
    return SAMAutoSegError(
        f"{source} is damaged or cut short ({source.stat().st_size} bytes): "
        "download or copy it again"
    )


def _require_intact(source: Path) -> None:
    """Check the checksums in a zip archive, which torch does not do."""
    try:
        with zipfile.ZipFile(source) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise _damaged(source) from error
    if wrong is not None:
        raise _damaged(source)


def _read_safetensors(source: Path) -> Checkpoint:
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _damaged(source) from error
    if os.name == "nt":  # where a file that is still mapped can neither be removed nor replaced
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return Checkpoint(tensors, header)


def _tensors_in(content: Any, source: Path) -> dict[str, Tensor]:
    """The state dict inside what was read, whatever trainer wrapped it."""
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = (
        {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise SAMAutoSegError(f"{source} holds no named tensors: expected a model's state dict")
    if all(name.startswith("module.") for name in tensors):  # saved from DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _vit_family(tensors: Mapping[str, Tensor]) -> Family | None:
    patch = tensors.get("image_encoder.patch_embed.proj.weight")
    table = tensors.get("image_encoder.pos_embed")
    if patch is None or table is None or table.ndim != 4:
        return None
    depth = len({n.split(".")[2] for n in tensors if n.startswith("image_encoder.blocks.")})
    for family, shape in VIT_SHAPES.items():
        if (patch.shape[0], depth) == (shape.dim, shape.depth):
            return cast(Family, family)
    return None


def _recognize_without_encoder(tensors: Mapping[str, Tensor]) -> Recognition:
    """Files of what was learned on top of a SAM, known by their tensor names, and the rest."""
    names = tensors.keys()
    if "fati_qa" in names or any(n.startswith("sa_a_") for n in names):
        return Recognition("a BLO-SAM or MetaTune file (decoder LoRA and prompt)", adapted=True)
    if any(n.startswith("w_a_") for n in names):
        return Recognition("an encoder-LoRA file (SAMed or BLO-SAM layout)", adapted=True)
    if any(n.startswith("mask_decoder.") for n in names):
        return Recognition("a mask decoder without an image encoder", adapted=True)
    if any(n.startswith("image_encoder.") for n in names):
        return Recognition("an image encoder of a family that is not supported")
    return Recognition("no kind of SAM this program knows")


def _single(tensor: Tensor) -> Tensor:
    """Files saved in half precision are computed with in float32."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _ignored(name: str) -> bool:
    return name.startswith(IGNORED) or name.endswith(IGNORED_ENDINGS)


def locate(source: str | os.PathLike[str]) -> Path:
    """The file that `catalog.file_of` gives.

    Raises:
        SAMAutoSegError: a catalogue name whose file is not on this machine yet.
    """
    path, entry = catalog.file_of(source)
    if entry is not None and not path.exists():
        raise SAMAutoSegError(
            f"model {entry.name} is not on this machine yet: samautoseg models fetch {entry.name}"
        )
    return path


def _choose_side(found: Recognition, side: int | None) -> int:
    assert found.side is not None
    if side is None:
        return found.side
    if side not in found.sides and not (found.family != "vit_t" and side in IMPORTED_SIDES):
        offered = ", ".join(map(str, found.sides))
        raise SAMAutoSegError(f"input side {side}: {found.words} can have {offered}")
    return side
