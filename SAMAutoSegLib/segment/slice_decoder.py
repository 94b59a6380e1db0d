"""Slices of a volume from the encoder to their logits, whatever the memory takes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import Adapted
from SAMAutoSegLib.device import as_precision, choose_precision, is_out_of_memory
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.progress import Progress
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_slices
from SAMAutoSegLib.segment.refinement import Refinement, Step, prompter_of, refine


@dataclass
class SliceDecoder:
    """Decodes slices of one volume.

    Attributes:
        images: gray levels, uint8, as the model is shown them.
        refinement, cache: as for `segment_volume`.
        cancelled: `progress` raised Cancelled; the slices that were given are whole.
        notes: what the user should know, one sentence each.
        trace: what a refinement did, for every slice.
    """

    adapted: Adapted
    images: SliceStack
    refinement: Refinement | None
    cache: EmbeddingCache | None
    cancelled: bool = False
    notes: list[str] = field(default_factory=list)
    trace: dict[int, list[Step]] = field(default_factory=dict)

    def decode(
        self, numbers: list[int], batch: int | None, progress: Progress
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits [K, rows, columns] of one slice after the other; the last one when cancelled.

        Raises:
            SAMAutoSegError: not enough memory for a single slice on the CPU.
        """
        model, backbone, images = self.adapted.model, self.adapted.backbone, self.images
        device, precision = backbone.device, backbone.precision
        left = list(numbers)

        def tell(*_: object) -> None:
            done = len(numbers) - len(left)
            progress(done / len(numbers), f"segmenting: {done} of {len(numbers)} slices")

        try:
            if left:
                tell()
            while left:
                embedded = embed_slices(
                    backbone,
                    images.views,
                    numbers=left,
                    cache=self.cache,
                    batch=batch,
                    encoder_blocks=model.adaptation.encoder_blocks,
                    progress=tell,
                )
                try:
                    for number, features in embedded:
                        logits = self._logits(number, features)
                        del left[0]
                        yield number, logits
                    continue
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if backbone.device.type == "cpu":
                        raise SAMAutoSegError(
                            f"not enough memory for slice {left[0]}: close other programs, or "
                            "take a smaller backbone or region"
                        ) from error
                # Outside of the except clause, which keeps what filled the memory alive.
                if batch != 1:
                    batch = 1
                    continue
                self.notes.append(
                    f"{device} ran out of memory at a single slice: the last {len(left)} of "
                    f"{len(numbers)} slices were computed on the CPU"
                )
                cpu = torch.device("cpu")
                backbone.to(cpu, choose_precision(cpu))
                model.to(cpu)
        except Cancelled:
            self.cancelled = True
        finally:
            if backbone.device != device:
                backbone.to(device, precision)
                model.to(device)

    def _logits(self, number: int, features: Tensor) -> Tensor:
        """Logits [K, rows, columns] of a slice; what a refinement did to it goes into `trace`."""
        model, backbone = self.adapted.model, self.adapted.backbone
        with torch.inference_mode(), as_precision(backbone.precision, backbone.device):
            entering = features[None].to(backbone.precision)
            if self.refinement is None:
                low_res = model(entering)[0].float()
            else:
                embedding = model.embed(entering)
                first = model.decode(embedding)[0].float()
                low_res, steps = refine(
                    first,
                    embedding,
                    prompter_of(model, backbone),
                    backbone.spec.side,
                    self.refinement,
                    self._inside(first.shape[-1]).to(first.device),
                )
                self.trace[number] = steps
            return model.slice_logits(low_res, self.images.slice_at(number), backbone.spec)

    def _inside(self, side: int) -> Tensor:
        """Where low-res logits [side, side] have the slice, not the padding around it."""
        ones = torch.ones(1, *self.images.slice_shape)
        return self.adapted.backbone.spec.slice_to_low_res(ones, side)[0] > 0
