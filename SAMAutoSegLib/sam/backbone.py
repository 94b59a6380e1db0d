"""A loaded SAM: its three networks, its input, and its image encoder on the fast path."""

import hashlib
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.architecture import Parts
from SAMAutoSegLib.sam.encoder_tail import EncoderTail, front_features
from SAMAutoSegLib.sam.image_encoder_fast import fast_encoder, use_reference_attention
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.sam.two_way import decode
from SAMAutoSegLib.sam.upstream import MaskDecoder, PromptEncoder

Family = Literal["vit_b", "vit_l", "vit_h", "vit_t"]
Attention = Literal["fast", "reference"]


class Backbone:
    """Image encoder, prompt encoder and mask decoder of one checkpoint.

    Attributes:
        family: 'vit_b', 'vit_l', 'vit_h' or 'vit_t'.
        name: the checkpoint's name in the catalogue, or its file name.
        sha256: of the checkpoint file.
        license: SPDX name where the catalogue knows the file, else None.
        spec: how a slice becomes the encoder's input.
        image_encoder: the upstream module (float32); `encode` computes with a faster form of it.
        prompt_encoder, mask_decoder: the upstream modules, float32, on `device`.
        embedding_side: e; embeddings are [B, 256, e, e], low-res masks 4e x 4e.
        precision: the type `encode` computes in.
        attention: 'fast', or 'reference' for upstream's own operations bit for bit (float32).
    """

    def __init__(
        self,
        parts: Parts,
        *,
        family: Family,
        spec: InputSpec,
        name: str = "",
        sha256: str = "",
        license: str | None = None,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
        attention: Attention = "fast",
    ) -> None:
        self.family = family
        self.name = name
        self.sha256 = sha256
        self.license = license
        self.spec = spec
        self.image_encoder: nn.Module = parts.image_encoder.eval().requires_grad_(False)
        self.prompt_encoder: PromptEncoder = parts.prompt_encoder.eval().requires_grad_(False)
        self.mask_decoder: MaskDecoder = parts.mask_decoder.eval().requires_grad_(False)
        self.embedding_side: int = self.prompt_encoder.image_embedding_size[0]
        self.precision = precision if attention == "fast" else torch.float32
        self.attention = attention
        if attention == "reference":
            use_reference_attention(self.image_encoder)
        self.device = torch.device("cpu")
        self._encoder: nn.Module | None = None
        self.to(device)

    def to(self, device: torch.device | str, precision: torch.dtype | None = None) -> "Backbone":
        """Move to a device, and with `precision` change the type `encode` computes in."""
        self.device = torch.device(device)
        if precision is not None and self.attention == "fast":
            self.precision = precision
        self.prompt_encoder.to(self.device)
        self.mask_decoder.to(self.device)
        if self.attention == "reference":
            self.image_encoder.to(self.device)
        self._encoder = None
        return self

    @cached_property
    def encoder_sha256(self) -> str:
        """What embeddings depend on: the file's SHA-256; without a file, the encoder tensors'."""
        if self.sha256:
            return self.sha256
        digest = hashlib.sha256()
        for name, tensor in sorted(self.image_encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def encoder(self) -> nn.Module:
        """What `encode` runs: the fast form, or the upstream module on the reference path."""
        if self.attention == "reference":
            return self.image_encoder
        if self._encoder is None:
            self._encoder = fast_encoder(self.image_encoder, self.device, self.precision)
        return self._encoder

    def encode(self, images: Tensor, before_last: int = 0) -> Tensor:
        """Inputs [B, 3, S, S] of `spec.prepare` -> embeddings [B, 256, e, e], float32.

        Computed without gradients in `precision`, and rounded to it, so that a kept copy in that
        type loses nothing. The result may be used in training.

        With `before_last` it is what enters so many last blocks, for `tunable_tail`.
        """
        encoder = self.encoder
        with torch.inference_mode():
            images = images.to(self.device)
            if before_last:
                embedding = front_features(encoder, images, before_last).to(self.precision)
            else:
                embedding = encoder(images).to(self.precision)
        # A copy made outside: an inference tensor could not be saved for a backward pass.
        return embedding.to(torch.float32, copy=True)

    def tunable_tail(self, blocks: int) -> EncoderTail:
        """A float32 copy of the last blocks and the neck, frozen, to be adapted.

        Raises:
            SAMAutoSegError: the encoder has fewer such blocks, or runs on the reference path.
        """
        if self.attention == "reference":
            raise SAMAutoSegError("encoder blocks cannot be tuned with attention 'reference'")
        return EncoderTail(fast_encoder(self.image_encoder, self.device, torch.float32), blocks)

    def decode(
        self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of B prompts on one image: logits [B, C, 4e, 4e] and IoU estimates [B, C].

        Args:
            embedding: [1, 256, e, e] of `encode`.
            position: [1, 256, e, e] of `prompt_encoder.get_dense_pe()`.
            sparse, dense: [B, T, 256] and [B, 256, e, e] of `prompt_encoder`; dense may be
                [1, ...] where it is the same for all.
            multimask: C = 3 masks of different extent instead of 1.
        """
        if self.attention == "reference":
            return self.mask_decoder(embedding, position, sparse, dense, multimask)
        return decode(self.mask_decoder, embedding, position, sparse, dense, multimask)
