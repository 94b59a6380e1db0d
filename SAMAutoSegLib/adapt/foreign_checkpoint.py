"""Files of other programs that adapt SAM, as adapted models of this one.

Read are the layouts of BLO-SAM and of MetaTune, its authors' later work (low-rank updates of the
mask decoder, with or without such of the image encoder), and of SAMed (Zhang and Liu, "Customized
Segment Anything Model for Medical Image Segmentation", 2023: updates of the image encoder and a
mask decoder learned as a whole). They are told apart by their tensors, never by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from SAMAutoSegLib import __version__
from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.adapt.adapted_model import PROMPT, Adaptation, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import sha256_of_file
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone, read_checkpoint

# Sides of the input that the programs take unless told otherwise; no file says its own.
_BLO_SAM_SIDE, _SAMED_SIDE = 256, 512

_DECODER = "mask_decoder."
_PROMPT_ENCODER = "prompt_encoder."
_TRANSFORMER = f"{_DECODER}transformer."
_TOKENS = f"{_DECODER}mask_tokens.weight"
_NO_MASK = f"{_PROMPT_ENCODER}no_mask_embed.weight"
_POSITION = f"{_PROMPT_ENCODER}pe_layer.positional_encoding_gaussian_matrix"

# Short names of BLO-SAM's decoder updates, layer by layer, query before value.
_ATTENTIONS = {
    "sa": "self_attn",
    "cti": "cross_attn_token_to_image",
    "cit": "cross_attn_image_to_token",
}

# Frozen tensors may have been through half precision.
_SAME = 1e-3


def import_adapted(
    path: str | Path,
    base: str | Path,
    *,
    intensity: Intensity,
    plane: Plane = "axial",
    structures: Sequence[str] = (),
    side: int | None = None,
    device: torch.device | str = "auto",
) -> tuple[Adapted, list[str]]:
    """Read a file of BLO-SAM, MetaTune or SAMed.

    Args:
        path: the file.
        base: the SAM it was learned on, by file or catalogue name.
        intensity, plane: of the images it was learned on; the file does not tell.
        structures: their names, in the order of the classes; by default numbers.
        side: of the input it was learned with; by default that of the program's own default.

    Returns:
        The model, and a report, one sentence each.

    Raises:
        SAMAutoSegError: a file of another kind or one that lacks its mask decoder, values that are
            no numbers, copies within it that differ, another base, a wrong number of names, or
            the same name twice.
    """
    tensors = {n: t.float() for n, t in read_checkpoint(path).tensors.items()}
    in_decoder = "fati_qa" in tensors
    in_encoder = sorted(n for n in tensors if n.startswith("w_a_"))
    if not in_decoder and not in_encoder:
        raise SAMAutoSegError(
            f"{path} is no file of BLO-SAM, MetaTune or SAMed: it has no low-rank tensors (fati_qa "
            "or w_a_000); 'samautoseg models inspect' tells what it is"
        )
    if _TOKENS not in tensors:
        raise SAMAutoSegError(
            f"{path} lacks its mask decoder ({_TOKENS}), which that program draws anew at every "
            "start: its result cannot be repeated; train again with the decoder saved"
        )
    if diverged := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise SAMAutoSegError(
            f"{path} holds values that are no numbers ({diverged[0]}): its training had failed"
        )
    classes = len(tensors[_TOKENS])
    names = list(structures) or [f"structure {n}" for n in range(1, classes)]
    if len(names) != classes - 1:
        raise SAMAutoSegError(
            f"{len(names)} names of structures: {path} has {classes - 1} structures"
        )
    if len({name.casefold() for name in names}) < len(names):
        raise SAMAutoSegError(f"structures {', '.join(names)}: give each a name of its own")
    program = "BLO-SAM or MetaTune" if in_decoder else "SAMed"
    own_side = side or (_BLO_SAM_SIDE if in_decoder else _SAMED_SIDE)
    backbone = load_backbone(base, side=own_side, normalization="unit", device=device)
    backbone.spec = replace(backbone.spec, aspect="stretch")
    adaptation = Adaptation(
        lora_rank=len(tensors["fati_qa" if in_decoder else in_encoder[0]]),
        encoder_blocks=len(in_encoder) // 2,
        head="class-tokens" if in_decoder else "class-tokens-whole",
    )
    model = AdaptedModel(backbone, classes, adaptation)
    model.load_learned_state(_learned(tensors, model, path, in_decoder))
    report = [
        f"{path} is a file of {program}: {classes - 1} structures, low-rank updates of rank "
        f"{adaptation.lora_rank}"
        + (f", {adaptation.encoder_blocks} encoder blocks adapted" if in_encoder else ""),
        f"input side {own_side}, values 0 to 1, stretched to a square"
        + ("" if side else f": the default of {program}; the file does not tell"),
        *_compared_with_base(tensors, backbone, path, frozen=in_decoder),
    ]
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=intensity,
        plane=plane,
        adaptation=adaptation,
        structures=tuple(structure_named(name, n) for n, name in enumerate(names, start=1)),
        method="imported",
        provenance={
            "program": f"SAMAutoSeg {__version__}",
            "imported_from": Path(path).name,
            "imported_sha256": sha256_of_file(Path(path)),
            "report": report,
        },
    )
    return Adapted(model.eval(), card, backbone), report


def _learned(
    tensors: Mapping[str, Tensor], model: AdaptedModel, path: str | Path, in_decoder: bool
) -> dict[str, Tensor]:
    """The file's tensors by the names that the model has for them."""
    short = {_long(name): name for name in tensors if in_decoder and _long(name)}
    found: dict[str, Tensor] = {}
    for name in model.learned_state():
        source = _source(name)
        source = short.get(source, source)
        if name == PROMPT and "no_mask_embed" in tensors:
            source = "no_mask_embed"
        if source not in tensors:
            raise SAMAutoSegError(f"{path} lacks {source}: the file is damaged or of another kind")
        found[name] = tensors[source]
    # BLO-SAM writes every decoder update twice.
    for long, name in short.items():
        if long in tensors and not torch.equal(tensors[long], tensors[name]):
            raise SAMAutoSegError(
                f"{path} contradicts itself: {name} and {long} differ; save it again"
            )
    return found


def _source(name: str) -> str:
    """What SAMed and BLO-SAM call a learned tensor of `AdaptedModel`."""
    if name == PROMPT:
        return _NO_MASK
    part, _, rest = name.partition(".")
    if part == "decoder":
        for ours, theirs in ((".lora_a", ".w_a.weight"), (".lora_b", ".w_b.weight")):
            if rest.endswith(ours):
                rest = rest.removesuffix(ours) + theirs
        return _DECODER + rest
    _, block, _, _, which, lora = rest.split(".")  # blocks.N.attention.qkv.query.lora_a
    return f"w_{lora[-1]}_{2 * int(block) + (which == 'value'):03d}"


def _long(name: str) -> str:
    """The full name of a decoder update that has a short one; empty for other tensors."""
    if final := re.fullmatch("fati_([qv])([ab])", name):
        projection, letter = final.groups()
        return f"{_TRANSFORMER}final_attn_token_to_image.{projection}_proj.w_{letter}.weight"
    numbered = re.fullmatch(f"({'|'.join(_ATTENTIONS)})_([ab])_([0-9]+)", name)
    if numbered is None:
        return ""
    kind, letter, number = numbered.groups()
    layer, value = divmod(int(number), 2)
    projection = "v" if value else "q"
    return f"{_TRANSFORMER}layers.{layer}.{_ATTENTIONS[kind]}.{projection}_proj.w_{letter}.weight"


def _compared_with_base(
    tensors: Mapping[str, Tensor], backbone: Backbone, path: str | Path, frozen: bool
) -> list[str]:
    """Whether what the file holds of a frozen SAM is the base's own."""
    own: dict[str, Any] = {
        _PROMPT_ENCODER + n: t for n, t in backbone.prompt_encoder.state_dict().items()
    }
    kept = [_POSITION]
    if frozen:
        own |= {_DECODER + n: t for n, t in backbone.mask_decoder.state_dict().items()}
        kept += [name for name in own if name.startswith(_TRANSFORMER)]
    compared = 0
    for name in kept:
        stem, _, leaf = name.rpartition(".")
        theirs = tensors.get(name, tensors.get(f"{stem}.proj.{leaf}"))
        if theirs is None:
            continue
        compared += 1
        if not torch.allclose(theirs, own[name].float().cpu(), atol=_SAME, rtol=_SAME):
            raise SAMAutoSegError(
                f"{path} was not learned on {backbone.name}: {name} differs; name its own base"
            )
    if not compared:
        return [f"nothing in the file tells whether {backbone.name} is the base it was learned on"]
    return [f"{compared} frozen tensors are those of {backbone.name}"]
