"""SAM's mask decoder, arranged for a handful of tokens against thousands of image positions.

Kirillov et al., "Segment Anything", 2023, appendix A. The modules are those of upstream's
`MaskDecoder`; the arithmetic is rearranged, which changes results only in the last digits and
makes a click or a training step on a CPU several times faster:

- The image side of an attention is never projected. With T tokens and H heads, the projection
  moves to the tokens: `q . (W x) = (W' q) . x` and `sum p (W x) = W (sum p x)`, so the cost per
  image position is H T products of length 256 instead of two projections.
- A transposed convolution of kernel 2 and stride 2 is a matrix product per position. Its four
  outputs stay beside each other, channels last, until both doublings are done.
- Image positions are [B, N, 256] in memory too, and so are their gradients: the image is the left
  factor of every product. Upstream's are transposed, so that every addition and normalization
  copies.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def decode(
    mask_decoder: Any,
    embedding: Tensor,
    position: Tensor,
    sparse: Tensor,
    dense: Tensor,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """What an upstream `MaskDecoder` computes: logits [B, C, 4e, 4e] and IoU estimates [B, C].

    Args:
        embedding: [1, 256, e, e], one image.
        position: [1, 256, e, e], SAM's image-wide position code.
        sparse: [B, T, 256], the embedded points and boxes of B prompts.
        dense: [B, 256, e, e], the embedded masks, or the no-mask embedding; [1, ...] for all.
        multimask: C = 3 masks of different extent, of all tokens but the first; else C = 1.
    """
    image = (embedding + dense).flatten(2).transpose(1, 2).contiguous()
    image = image.expand(len(sparse), -1, -1)
    place = position.flatten(2).transpose(1, 2).contiguous()
    own = torch.cat([mask_decoder.iou_token.weight, mask_decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    tokens, image = two_way(mask_decoder.transformer, tokens, image, place)
    features = upscale(mask_decoder.output_upscaling, image)
    chosen = slice(1, None) if multimask else slice(0, 1)
    mlps = mask_decoder.output_hypernetworks_mlps[chosen]
    masks = mask_logits(features, mlps, tokens[:, 1 : len(own)][:, chosen])
    return masks, mask_decoder.iou_prediction_head(tokens[:, 0])[:, chosen]


def two_way(
    transformer: Any, tokens: Tensor, image: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: tokens [B, T, 256], image [B, N, 256], positions [1, N, 256]."""
    point = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            query = tokens + point
            tokens = tokens + layer.self_attn(q=query, k=query, v=tokens)
        tokens = layer.norm1(tokens)
        placed = image + place
        read = tokens_read_image(layer.cross_attn_token_to_image, tokens + point, placed, image)
        tokens = layer.norm2(tokens + read)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        attention = layer.cross_attn_image_to_token
        image = layer.norm4(image_reads_tokens(attention, image, placed, tokens + point, tokens))
    final = transformer.final_attn_token_to_image
    tokens = tokens + tokens_read_image(final, tokens + point, image + place, image)
    return transformer.norm_final_attn(tokens), image


def freeze_key_biases(transformer: Any) -> None:
    """They drop out of every softmax, so there is nothing to learn and they get no gradient."""
    for name, bias in transformer.named_parameters():
        if name.endswith("k_proj.bias"):
            bias.requires_grad_(False)


def tokens_read_image(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Cross-attention of few queries to many keys, [B, T, 256] from [B, N, 256].

    The key bias adds the same number to all scores of a query and so drops out of the softmax.
    """
    heads = attention.num_heads
    q = attention.q_proj(query).unflatten(-1, (heads, -1))  # [B, T, H, d]
    w_k = attention.k_proj.weight.unflatten(0, (heads, -1))  # [H, d, 256]
    probe = torch.einsum("bthd,hdc->bhtc", q, w_k).flatten(1, 2) / q.shape[-1] ** 0.5
    scores = key @ probe.transpose(1, 2)  # [B, N, H T]
    share = scores.transpose(1, 2).softmax(-1)  # [B, H T, N]
    seen = (share @ value).unflatten(1, (heads, -1))  # [B, H, T, 256]
    w_v = attention.v_proj.weight.unflatten(0, (heads, -1))
    out = torch.einsum("bhtc,hdc->bthd", seen, w_v).flatten(2) + attention.v_proj.bias
    return attention.out_proj(out)


def image_reads_tokens(
    attention: Any, image: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """`image` plus the cross-attention of many queries to few keys, [B, N, 256] from [B, T, 256].

    The scores lie token by token, N side by side, where the softmax over T is vectorized. The
    output bias is dealt out among the heads, whose shares of attention each sum to one.
    """
    heads = attention.num_heads
    k = attention.k_proj(key).unflatten(-1, (heads, -1))  # [B, T, H, d]
    v = attention.v_proj(value).unflatten(-1, (heads, -1))
    scale = k.shape[-1] ** -0.5
    w_q = attention.q_proj.weight.unflatten(0, (heads, -1))  # [H, d, 256]
    b_q = attention.q_proj.bias.unflatten(0, (heads, -1))
    probe = torch.einsum("bthd,hdc->bhtc", k, w_q).flatten(1, 2) * scale
    offset = torch.einsum("bthd,hd->bht", k, b_q).flatten(1)[:, None] * scale
    scores = torch.baddbmm(offset, query, probe.transpose(1, 2))  # [B, N, H T]
    share = scores.transpose(1, 2).unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)
    w_o = attention.out_proj.weight.unflatten(1, (heads, -1))  # [256, H, d]
    answer = torch.einsum("bthd,chd->bhtc", v, w_o).flatten(1, 2)  # [B, H T, 256]
    answer = answer + attention.out_proj.bias / heads
    return torch.baddbmm(image, share.transpose(1, 2), answer)


def upscale(output_upscaling: Any, image: Tensor) -> Tensor:
    """Mask features [B, 4e, 4e, 32] of image positions [B, e * e, 256], channels last."""
    e = math.isqrt(image.shape[1])
    first, norm, act, second, last_act = output_upscaling
    x = double_positions(first, image.unflatten(1, (e, e)))
    x = act(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    x = last_act(double_positions(second, x))
    # From position (y, x), then (dy, dx) of the first and of the second doubling. Features are put
    # in place, neighbors in a row together: with logits, a number at a time, it takes far longer.
    pairs = x.flatten(-2)  # [B, y, x, dy, dx, dy, (dx, 32)]
    return pairs.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(image), 4 * e, 4 * e, -1)


def double_positions(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A 2x2, stride 2 transposed convolution, channels last: [..., C] to [..., 2, 2, D]."""
    inputs, outputs = convolution.weight.shape[:2]
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(x, weight, bias).unflatten(-1, (2, 2, outputs))


def mask_logits(features: Tensor, mlps: Any, tokens: Tensor) -> Tensor:
    """Low-res logits [B, M, 4e, 4e] of `upscale`'s features and M mask tokens [B, M, 256]."""
    weights = torch.stack([mlp(tokens[:, n]) for n, mlp in enumerate(mlps)], 1)  # [B, M, 32]
    logits = features.flatten(1, 2) @ weights.transpose(1, 2)
    return logits.transpose(1, 2).reshape(len(logits), -1, *features.shape[1:3])
