"""The four encoder families and the modules each is built of."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.tiny_vit import TinyViT
from SAMAutoSegLib.sam.upstream import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)

PROMPT_DIM = 256
PATCH = 16
WINDOW = 14

# Windows of 14 tokens of 16 pixels: a side of 224 k needs no padded window, 1024 is SAM's own.
VIT_SIDES = (448, 672, 896, 1024)


@dataclass(frozen=True)
class ViTShape:
    """Width, depth, heads and global-attention blocks of a SAM ViT (build_sam.py upstream)."""

    dim: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VIT_SHAPES: dict[str, ViTShape] = {
    "vit_b": ViTShape(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": ViTShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": ViTShape(1280, 32, 16, (7, 15, 23, 31)),
}
FAMILY_NAMES = {
    "vit_b": "SAM ViT-B",
    "vit_l": "SAM ViT-L",
    "vit_h": "SAM ViT-H",
    "vit_t": "TinyViT SAM",
}


@dataclass(frozen=True)
class Parts:
    """The three networks of a SAM under the names of its checkpoints."""

    image_encoder: nn.Module
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a checkpoint of this model."""
        return {
            f"{part}.{name}": tuple(tensor.shape)
            for part in ("image_encoder", "prompt_encoder", "mask_decoder")
            for name, tensor in getattr(self, part).state_dict().items()
        }


def embedding_side(family: str, side: int, stem_stride: int = 2) -> int:
    """e, the side of the embedding of an S x S input: S/16, or S/4 with a stem of stride 1."""
    return side // 4 if family == "vit_t" and stem_stride == 1 else side // PATCH


def build_parts(family: str, side: int, stem_stride: int = 2) -> Parts:
    """Untrained networks of `family` for an S x S input, in evaluation mode.

    `stem_stride` matters to 'vit_t' only: 2 for MobileSAM, 1 for LiteMedSAM.

    Raises:
        SAMAutoSegError: a side the family cannot have.
    """
    e = embedding_side(family, side, stem_stride)
    encoder: nn.Module
    if family == "vit_t":
        native = 256 if stem_stride == 1 else 1024
        if side != native:
            raise SAMAutoSegError(f"input side {side}: this TinyViT checkpoint takes {native} only")
        encoder = TinyViT(stem_stride)
    else:
        if side % PATCH:
            raise SAMAutoSegError(f"input side {side}: expected a multiple of {PATCH}")
        shape = VIT_SHAPES[family]
        encoder = ImageEncoderViT(
            depth=shape.depth,
            embed_dim=shape.dim,
            img_size=side,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=shape.heads,
            patch_size=PATCH,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=shape.global_blocks,
            window_size=WINDOW,
            out_chans=PROMPT_DIM,
        )
    prompt_encoder = PromptEncoder(
        embed_dim=PROMPT_DIM,
        image_embedding_size=(e, e),
        input_image_size=(side, side),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8),
        transformer_dim=PROMPT_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return Parts(encoder.eval(), prompt_encoder.eval(), mask_decoder.eval())


def resize_positions(tensors: Mapping[str, Tensor], family: str, side: int) -> dict[str, Tensor]:
    """The tensors of a ViT checkpoint with its position tables resized to S/16 tokens a side.

    The image-wide table is resized bilinearly, the relative tables of the global blocks linearly;
    windowed blocks keep theirs. The blocks are chosen by their place in the family, for a search
    by substring (block "2" in "12") picks wrong ones in ViT-L and ViT-H. Tables that fit already
    are passed on untouched.
    """
    e = side // PATCH
    resized = dict(tensors)
    name = "image_encoder.pos_embed"
    table = tensors[name]
    if table.shape[1:3] != (e, e):
        grid = table.permute(0, 3, 1, 2).float()
        grid = F.interpolate(grid, (e, e), mode="bilinear", align_corners=False)
        resized[name] = grid.permute(0, 2, 3, 1).to(table.dtype)
    for block in VIT_SHAPES[family].global_blocks:
        for axis in ("h", "w"):
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            table = tensors[name]
            if table.shape[0] != 2 * e - 1:
                line = table.T[None].float()
                line = F.interpolate(line, 2 * e - 1, mode="linear", align_corners=False)
                resized[name] = line[0].T.to(table.dtype)
    return resized


def state_shapes(family: str, side: int, stem_stride: int = 2) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, without allocating any."""
    with torch.device("meta"):
        return build_parts(family, side, stem_stride).state_shapes()
