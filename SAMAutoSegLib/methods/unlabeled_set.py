"""Unlabeled slices as WeSAM takes them: weak and strong views, and what weak labels say of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Plane, SliceStack
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.images.views import random_motion
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.weak_labels import WeakLabels, check_weak_labels
from SAMAutoSegLib.methods.strong_views import degraded
from SAMAutoSegLib.methods.training_set import check_slices
from SAMAutoSegLib.methods.weak_evidence import Evidence, gather_evidence
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache, embed_images
from SAMAutoSegLib.sam.predictor import ClickPredictor

# Random numbers of their own, so that these copies change nothing of what is learned from.
_APART = 21


@dataclass(frozen=True)
class UnlabeledVolume:
    """An image, which of its slices are adapted to, and what is known of them."""

    image: Volume
    slices: tuple[int, ...]
    weak: WeakLabels


@dataclass(frozen=True)
class View:
    """All N slices in one position each; nothing differs between its parts but gray levels.

    Attributes:
        weak: [N, ...] features of `Backbone.encode`.
        strong: the same of degraded slices, one tensor for each degradation.
        inside: [N, m, m] bool, the slice without its padding.
        evidence: of each slice, planes [C, m, m]; None where no weak label says anything.
        unseen: more of `strong`, of the first view only: nothing is learned from them.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    inside: Tensor
    evidence: tuple[Evidence | None, ...]
    unseen: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class UnlabeledSet:
    """N slices; the first view shows them as they are.

    Attributes:
        views: at least one.
        structures: what weak labels and classes are about.
        images: the slices as they are, uint8 [H, W].
        pixel_spacings: of each slice, (row, column) in mm.
    """

    views: tuple[View, ...]
    structures: tuple[Structure, ...]
    images: tuple[np.ndarray, ...]
    pixel_spacings: tuple[tuple[float, float], ...]

    @property
    def hinted(self) -> int:
        """How many slices have a weak label."""
        return sum(known is not None for known in self.views[0].evidence)

    @property
    def features(self) -> Tensor:
        """[N, ...] of the slices as they are."""
        return self.views[0].weak

    def __len__(self) -> int:
        return len(self.features)

    def fingerprint(self) -> str:
        """SHA-256 of names, features and evidence: whether a training can go on with this set."""
        digest = hashlib.sha256("\n".join(one.name for one in self.structures).encode())
        for view in self.views:
            digest.update(bytes(known is not None for known in view.evidence))
            planes = [plane for known in view.evidence if known for plane in known.planes]
            for tensor in (view.weak, *view.strong, *view.unseen, *planes):
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def build_unlabeled_set(
    volumes: Sequence[UnlabeledVolume],
    structures: Sequence[Structure],
    backbone: Backbone,
    *,
    plane: Plane,
    intensity: Intensity,
    encoder_blocks: int,
    views: int = 2,
    strong: int = 1,
    seed: int = 0,
    cache: EmbeddingCache | None = None,
    progress: Progress = silent,
) -> UnlabeledSet:
    """Encode `views` positions of every slice, each once as it is and `strong` times degraded.

    The slices as they lie are degraded once more, for a look at what the model has become.

    Args:
        structures: the model's, in the order of its classes.
        encoder_blocks: features from before so many last blocks of the encoder.
        seed: of motions and degradations.

    Raises:
        SAMAutoSegError: no slice, slices out of range, and what `check_weak_labels` refuses.
    """
    total = sum(len(volume.slices) for volume in volumes)
    if not total:
        raise SAMAutoSegError("no slice to adapt to: name at least one")
    rng, apart = np.random.default_rng(seed), np.random.default_rng([seed, _APART])
    predictor = ClickPredictor(backbone)
    tail = backbone.tunable_tail(encoder_blocks).to(backbone.device) if encoder_blocks else None
    m = 4 * backbone.embedding_side
    shown: list[list[View]] = []  # of every slice its views, each a View of one slice
    images: list[np.ndarray] = []
    spacings: list[tuple[float, float]] = []
    for volume in volumes:
        stack = SliceStack(intensity.apply(volume.image.array), volume.image.grid, plane)
        shape, spacing = stack.slice_shape, stack.pixel_spacing
        check_slices(volume.image, volume.slices, stack)
        check_weak_labels(volume.weak, stack, structures)
        inside = backbone.spec.slice_to_low_res(torch.ones(1, *shape), m)[0] > 0
        for number in volume.slices:
            hints = volume.weak.of(number)
            original = stack.slice_at(number)
            found: list[View] = []
            for v in range(views):
                image = original
                if v:
                    motion = random_motion(shape, spacing, rng)
                    image = motion.moved_image(original).round().clip(0, 255).astype(np.uint8)
                looks = [image, *(degraded(image, rng) for _ in range(strong))]
                looks += [] if v else [degraded(image, apart)]
                features = [
                    embed_images(backbone, [one], cache, encoder_blocks)[0] for one in looks
                ]
                if hints and not v:
                    with torch.inference_mode():
                        embedding = features[0] if tail is None else tail(features[0][None])[0]
                    predictor.set_embedding(embedding, shape)
                    evidence = gather_evidence(hints, structures, predictor, shape)
                known = None
                if hints:
                    moved = evidence.moved(motion) if v else evidence
                    known = moved.low_res(backbone.spec, m).to(backbone.device)
                weak, *changed = (feature.to(backbone.precision) for feature in features)
                learned, unseen = tuple(changed[:strong]), tuple(changed[strong:])
                found.append(View(weak, learned, inside, (known,), unseen))
            shown.append(found)
            images.append(original.copy())
            spacings.append(spacing)
            progress(len(shown) / total, f"encoding slices and views: {len(shown)} of {total}")
    together = zip(*shown, strict=True)
    return UnlabeledSet(
        tuple(_stacked(view, backbone.device) for view in together),
        tuple(structures),
        tuple(images),
        tuple(spacings),
    )


def _stacked(slices: Sequence[View], device: torch.device) -> View:
    def together(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.stack(part) for part in zip(*parts, strict=True))

    return View(
        torch.stack([view.weak for view in slices]),
        together(view.strong for view in slices),
        torch.stack([view.inside for view in slices]).to(device),
        tuple(known for view in slices for known in view.evidence),
        together(view.unseen for view in slices),
    )
