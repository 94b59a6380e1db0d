"""A model with a pixel branch adapts to another scanner: both have to agree, and both may learn.

The losses and the judgment of WeSAM (see `we_sam`) are about the SAM alone, but a slice is
segmented by the product of SAM and branch, and a net that looks at the pixels themselves feels
another scanner first. So an adapted SAM is kept only where the two together agree better with the
weak labels than before. Then the branch goes on learning, at a low rate, from what both say of the
slices, as the weak labels correct it, in strongly changed views, and is judged alike. Without weak
labels it stays as it is. Designed here; nothing of it is published.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from SAMAutoSegLib.adapt.adapted_model import AdaptedModel
from SAMAutoSegLib.adapt.pixel_branch import PixelBranch, product
from SAMAutoSegLib.device import as_precision
from SAMAutoSegLib.methods.losses import IGNORED
from SAMAutoSegLib.methods.method import draw
from SAMAutoSegLib.methods.pixel_training import PixelSlice, PixelTraining, reduced
from SAMAutoSegLib.methods.strong_views import degraded
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledSet
from SAMAutoSegLib.methods.we_sam import WeSAMSettings, agreements_by_mark
from SAMAutoSegLib.methods.weak_evidence import corrected, pseudo_labels
from SAMAutoSegLib.progress import Progress, silent

# A tenth of what a branch is learned with: at that rate it forgot more than it learned. Chosen, as
# was the average, on patients that the benchmarks do not score.
_LEARNING_RATE = 3e-4

_DEGRADED_SHARE = 0.5
_SLICES, _DEGRADED = 15, 22


class Together:
    """What SAM and branch say together of the slices, measured by what the source said there.

    Args:
        source: a model with a branch.
    """

    def __init__(self, source: AdaptedModel, samples: UnlabeledSet) -> None:
        assert source.pixels is not None
        self.samples = samples
        view = samples.views[0]
        shares = self.shares(_said_by_sam(source, samples), source.pixels)
        self._expected = pseudo_labels(corrected(shares, view.evidence), view.inside, 0.0)
        self.before = self.agreement(shares)

    @torch.no_grad()
    def shares(self, sam: Tensor, branch: PixelBranch) -> Tensor:
        """Probabilities [N, K, m, m] of both, where those of the SAM have these logarithms."""
        side = sam.shape[-1]
        said = torch.stack([branch.low_res_shares(image, side) for image in self.samples.images])
        return product(sam, said, branch.weight).softmax(1)

    def agreement(self, shares: Tensor) -> float:
        """Mean Dice with what the source said as the weak labels correct it: of the structures that
        they are about in the slices where they are, without any of all."""
        marked, rest = [], []
        for n, evidence in enumerate(self.samples.views[0].evidence):
            own, other = agreements_by_mark(shares[n : n + 1], self._expected[n : n + 1], evidence)
            marked += own
            rest += [dice if dice == dice else 1.0 for dice in other]  # rightly nothing
        found = marked if self.samples.hinted else rest
        return sum(found) / len(found)


def keep_better_sam(
    model: AdaptedModel, source: dict[str, Tensor], together: Together, least: float
) -> str:
    """Put the learned state of the source back unless its branch agrees with the adapted SAM.

    Args:
        least: without weak labels, so much of the agreement has to remain.

    Returns:
        A note if it was put back, else ''.
    """
    assert model.pixels is not None
    sam = _said_by_sam(model, together.samples)
    after = together.agreement(together.shares(sam, model.pixels))
    fine = after > together.before if together.samples.hinted else after >= least * together.before
    state = model.learned_state()
    if fine or all(torch.equal(value, source[name]) for name, value in state.items()):
        return ""
    model.load_learned_state(source)
    return (
        "the source SAM is kept, since together with the pixel branch the adapted one agrees less "
        f"{'with the weak labels' if together.samples.hinted else 'with the source'} "
        f"({together.before:.3f} before, {after:.3f} after)"
    )


def adapt_branch(
    model: AdaptedModel,
    together: Together,
    settings: WeSAMSettings,
    progress: Progress = silent,
) -> tuple[bool, str]:
    """Adapt the branch of `model`, whose SAM stays as it is.

    Args:
        together: of slices of which at least one has weak labels.

    Returns:
        Whether the branch is another one now, and a note that says why or why not.

    Raises:
        Cancelled: by `progress`; the branch is as it was.
    """
    branch, samples = model.pixels, together.samples
    assert branch is not None
    sam = _said_by_sam(model, samples)
    shares = together.shares(sam, branch)
    known = corrected(shares, samples.views[0].evidence)
    slices = _pixel_slices(branch, known, samples, settings.confidence)
    fresh = _taught(branch, slices, settings, samples.features, progress)
    before, after = map(together.agreement, (shares, together.shares(sam, fresh)))
    told = f"agreement of both with the weak labels {before:.3f} before, {after:.3f} after"
    if not after > before:
        return (
            False,
            f"the source's pixel branch is kept, since nothing speaks for another ({told})",
        )
    branch.load_state_dict(fresh.state_dict())
    return True, f"pixel branch adapted: {told}"


@torch.no_grad()
def _said_by_sam(model: AdaptedModel, samples: UnlabeledSet) -> Tensor:
    """Logarithms of probabilities [N, K, m, m] of the slices as they are."""
    features = samples.features
    with as_precision(features.dtype, features.device):
        found = [model(features[n : n + 1]).float() for n in range(len(samples))]
    return torch.cat(found).log_softmax(1)


def _pixel_slices(
    branch: PixelBranch, shares: Tensor, samples: UnlabeledSet, least: float
) -> list[PixelSlice]:
    """The slices with the winners among probabilities [N, K, m, m]; below `least` none is."""
    found = []
    for image, spacing, own in zip(samples.images, samples.pixel_spacings, shares, strict=True):
        rows, columns = image.shape
        best, classes = branch.spec.logits_to_slice(own, (rows, columns)).max(0)
        labels = torch.where(best >= least, classes, IGNORED).to(torch.uint8)
        found.append(reduced(PixelSlice(image, labels.cpu().numpy(), spacing), branch.spec))
    return found


def _taught(
    branch: PixelBranch,
    slices: Sequence[PixelSlice],
    settings: WeSAMSettings,
    features: Tensor,
    progress: Progress,
) -> PixelBranch:
    """The average of a copy over the steps in which it learned from these slices."""
    fresh = copy.deepcopy(branch).train()
    average = AveragedModel(fresh, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    clip, seed = settings.gradient_clip, settings.seed
    training = PixelTraining(fresh, seed, clip, features.dtype, features.device)
    steps = settings.steps * settings.pixel_steps
    paced = replace(settings, steps=steps)
    for n in range(steps):
        rng = np.random.default_rng([seed, _DEGRADED, n])
        chosen = [slices[i] for i in draw(n, list(range(len(slices))), paced, _SLICES)]
        chosen = [
            replace(one, image=degraded(one.image, rng)) if rng.random() < _DEGRADED_SHARE else one
            for one in chosen
        ]
        training.step(n, chosen, paced.rate_at(n, _LEARNING_RATE))
        average.update_parameters(fresh)
        progress((n + 1) / steps, f"adapting the pixel branch: step {n + 1} of {steps}")
    fresh.load_state_dict(average.module.state_dict())
    return fresh.eval()
