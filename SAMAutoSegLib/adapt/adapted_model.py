"""What is learned on top of a frozen SAM: a head for all classes, and low-rank updates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from SAMAutoSegLib.adapt.class_decoder import ClassDecoder
from SAMAutoSegLib.adapt.heads import Head, HeadName, make_head
from SAMAutoSegLib.adapt.lora import add_lora_to_blocks
from SAMAutoSegLib.adapt.pixel_branch import PIXEL_SIDES, PixelBranch
from SAMAutoSegLib.adapt.prompted_decoder import PromptedDecoder
from SAMAutoSegLib.adapt.self_prompts import PromptKind, SelfPrompts
from SAMAutoSegLib.adapt.token_init import TokenInit
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec

# The decoder's attention projects to 128 and 256 channels: no update can have a higher rank.
_HIGHEST_RANK = 256


@dataclass(frozen=True)
class Adaptation:
    """Which parts of a SAM are adapted.

    Attributes:
        lora_rank: rank of the update of the query and value projections of the head
            'class-tokens' and of encoder blocks; 0: none, and 1 in encoder blocks.
        encoder_blocks: how many of the encoder's last blocks get such an update too; the features
            that enter the first of them are what is kept, so each block costs at every step.
        token_init: where class tokens start, see `ClassDecoder`, `AutoViT` and `AutoViTTokens`.
        head: what gives the logits, see `heads`.
        prompted: a pass with a prompt is learned too, beside the head 'class-tokens'.
        prompt: what of a prediction prompts that pass.
        pixel_side: of the input of a `PixelBranch` beside the SAM; 0: there is none.
        pixel_weight: of what that branch says, where the SAM has 1.
    """

    lora_rank: int = 4
    encoder_blocks: int = 0
    token_init: TokenInit = "random"
    head: HeadName = "class-tokens"
    prompted: bool = False
    prompt: PromptKind = "box"
    pixel_side: int = 0
    pixel_weight: float = 0.25

    def __post_init__(self) -> None:
        # A backbone says itself how many blocks it has.
        if not 0 <= self.lora_rank <= _HIGHEST_RANK:
            raise SAMAutoSegError(f"LoRA rank {self.lora_rank}: expected 0 to {_HIGHEST_RANK}")
        if self.token_init not in get_args(TokenInit):
            raise SAMAutoSegError(f"token_init {self.token_init!r}: expected random or sam")
        if self.head not in get_args(HeadName):
            raise SAMAutoSegError(
                f"head {self.head!r}: expected one of {', '.join(get_args(HeadName))}"
            )
        if self.lora_rank and self.head != "class-tokens" and not self.encoder_blocks:
            raise SAMAutoSegError(
                f"LoRA rank {self.lora_rank}: expected 0, since the head {self.head} is learned as "
                "a whole; or adapt encoder blocks too"
            )
        if self.encoder_blocks and self.head.startswith("heatmap"):
            raise SAMAutoSegError(
                f"encoder_blocks {self.encoder_blocks}: expected 0, because the head {self.head} "
                "is trained alone"
            )
        if self.pixel_side not in (0, *PIXEL_SIDES):
            raise SAMAutoSegError(
                f"pixel_side {self.pixel_side}: expected 0 or one of "
                f"{', '.join(map(str, PIXEL_SIDES))}"
            )
        if not 0 < self.pixel_weight <= 10:
            raise SAMAutoSegError(f"pixel_weight {self.pixel_weight}: expected above 0, up to 10")
        if self.prompt not in get_args(PromptKind):
            raise SAMAutoSegError(
                f"prompt {self.prompt!r}: expected one of {', '.join(get_args(PromptKind))}"
            )
        if self.prompted and self.head != "class-tokens":
            raise SAMAutoSegError(f"head {self.head}: a prompted pass goes with class-tokens only")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Adaptation:
        """Read what `to_json` wrote; `SAMAutoSegError` if an entry is not known."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise SAMAutoSegError(
                f"adaptation entry {min(unknown)!r} is not known: update SAMAutoSeg"
            )
        return cls(**values)


class AdaptedModel(nn.Module):
    """Features of the frozen encoder to low-res logits of all structures, without a prompt.

    The learnable prompt embedding is SAM's `no_mask_embed`, the dense prompt that stands for "no
    prompt", started from its pretrained value (BLO-SAM, arXiv 2402.16338, section 3). Heads that
    take no prompt leave it alone, and it is not learned. Weights of the backbone that stay frozen
    are copied, not saved.

    Args:
        backbone: any SAM; it is not changed.
        classes: K, the number of structures plus one for the background.
        adaptation: what is learned.
    """

    position: Tensor

    def __init__(self, backbone: Backbone, classes: int, adaptation: Adaptation) -> None:
        super().__init__()
        self.adaptation = adaptation
        encoder = backbone.prompt_encoder
        self.prompt_embedding = nn.Parameter(encoder.no_mask_embed.weight.detach().clone())
        self.classes = classes
        self.decoder: Head = make_head(
            adaptation.head,
            encoder,
            backbone.mask_decoder,
            classes,
            adaptation.lora_rank,
            adaptation.token_init,
        )
        self.prompt_embedding.requires_grad_(self.decoder.takes_prompt)
        self.tail: nn.Module | None = None
        if adaptation.encoder_blocks:
            self.tail = backbone.tunable_tail(adaptation.encoder_blocks)
            add_lora_to_blocks(self.tail, max(adaptation.lora_rank, 1))
        self.prompted: PromptedDecoder | None = None
        if adaptation.prompted:
            self.prompted = PromptedDecoder(backbone, adaptation.prompt)
        self.pixels: PixelBranch | None = None
        if adaptation.pixel_side:
            spec = replace(backbone.spec, side=adaptation.pixel_side)
            self.pixels = PixelBranch(spec, classes, adaptation.pixel_weight)
        # Channels last in memory, as the heads read it.
        position = encoder.get_dense_pe().detach().contiguous(memory_format=torch.channels_last)
        self.register_buffer("position", position, persistent=False)
        self.to(backbone.device)

    def forward(self, features: Tensor) -> Tensor:
        """The SAM's logits [B, K, 4e, 4e] of the features [B, ...] that `Backbone.encode` gives.

        With features in bfloat16, under autocast, the image side of the decoder stays in it.
        """
        return self.decode(self.embed(features))

    def embed(self, features: Tensor) -> Tensor:
        """The image embedding [B, 256, e, e] of the features."""
        return features if self.tail is None else self.tail(features)

    def decode(self, embedding: Tensor) -> Tensor:
        """The logits of an image embedding."""
        if self.decoder.takes_prompt:
            embedding = self._without_mask(embedding)
        return self.decoder(embedding, self.position.to(embedding.dtype))

    @property
    def input_side(self) -> int:
        """S of the encoder's input; only with `adaptation.prompted`."""
        assert self.prompted is not None
        return self.prompted.input_side

    def answer(self, embedding: Tensor, prompts: SelfPrompts) -> tuple[Tensor, Tensor]:
        """The learned prompted pass, see `Prompter`; only with `adaptation.prompted`."""
        assert self.prompted is not None and isinstance(self.decoder, ClassDecoder)
        if prompts.masks is None:
            embedding = self._without_mask(embedding)
        return self.prompted(self.decoder, embedding, self.position.to(embedding.dtype), prompts)

    def _without_mask(self, embedding: Tensor) -> Tensor:
        return embedding + self.prompt_embedding.view(1, -1, 1, 1).to(embedding.dtype)

    def set_pixel_weight(self, weight: float) -> None:
        """Change how much the pixel branch has to say, if there is one; see `Adaptation`."""
        self.adaptation = replace(self.adaptation, pixel_weight=weight)
        if self.pixels is not None:
            self.pixels.weight = weight

    def slice_logits(self, low_res: Tensor, image: np.ndarray, spec: InputSpec) -> Tensor:
        """Logits [K, H, W] at the size of a slice, with the pixel branch's say if there is one.

        Args:
            low_res: [K, 4e, 4e] of the SAM.
            image: the slice, uint8 [H, W].
            spec: of the SAM's input.
        """
        rows, columns = image.shape
        logits = spec.logits_to_slice(low_res, (rows, columns))
        return logits if self.pixels is None else self.pixels.agreed(logits, image)

    def named_weights(self) -> dict[str, nn.Parameter]:
        """What the SAM learns except the prompt embedding: BLO-SAM's lower-level variables."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and name != PROMPT and not name.startswith(PIXELS)
        }

    def weights(self) -> list[nn.Parameter]:
        """The values of `named_weights`."""
        return list(self.named_weights().values())

    def learned(self) -> list[nn.Parameter]:
        """What the SAM learns: the weights, and the prompt embedding where its head takes it."""
        prompt = [self.prompt_embedding] if self.decoder.takes_prompt else []
        return [*self.weights(), *prompt]

    def learned_state(self) -> dict[str, Tensor]:
        """Copies of all that is learned, on the CPU, by name: what a model file holds."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load_learned_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `learned_state` gave for a model of the same kind.

        Raises:
            SAMAutoSegError: tensors are missing, superfluous or of another shape.
        """
        own = {n: p for n, p in self.named_parameters() if p.requires_grad}
        wrong = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if wrong:
            raise SAMAutoSegError(
                f"the learned weights do not fit: {len(wrong)} tensors are missing, superfluous "
                f"or of another shape (first: {wrong[0]}); the file is damaged or was made for "
                "another backbone"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


PROMPT = "prompt_embedding"
PIXELS = "pixels."
