"""A whole volume segmented by an adapted model, slice by slice, without a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import Axis, Plane, SliceStack, plane_for
from SAMAutoSegLib.images.structure import as_classes, label_type
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.segment.cleanup import CleanUp, remove_parts
from SAMAutoSegLib.segment.corrected import CorrectedShapes, CorrectedSlices, with_corrected
from SAMAutoSegLib.segment.refinement import Refinement, Step
from SAMAutoSegLib.segment.slice_decoder import SliceDecoder
from SAMAutoSegLib.segment.smoothing import smooth_across_slices
from SAMAutoSegLib.segment.uncertainty import wrong_probability

Maps = Iterator[tuple[int, Tensor]]
OnSlice = Callable[[int, np.ndarray], None]

# A smoothed probability of 0 has a logarithm all the same.
_LEAST_SHARE = 1e-12


@dataclass
class SegmentationResult:
    """What came out.

    Attributes:
        labels: [K, J, I] on the image's grid with the structures' label values; uint8, or uint16
            where a value needs it.
        slices_done: numbers of the segmented slices.
        cancelled: ended before all slices were done; those done are whole.
        notes: what the user should know, one sentence each.
        trace: what a refinement did, for every slice.
        uncertainty: [K, J, I] float32, the probability that a voxel's label is wrong; 0 where
            nothing was segmented. Of the labels before parts were removed. None unless asked for.
        uncertainty_by_slice: the number of wrong pixels to expect in each slice; the slices with
            the highest are to be checked first.
    """

    labels: np.ndarray
    slices_done: list[int] = field(default_factory=list)
    cancelled: bool = False
    notes: list[str] = field(default_factory=list)
    trace: dict[int, list[Step]] = field(default_factory=dict)
    uncertainty: np.ndarray | None = None
    uncertainty_by_slice: dict[int, float] = field(default_factory=dict)


def segment_volume(
    volume: Volume,
    adapted: Adapted,
    *,
    axis: Axis | None = None,
    slices: Sequence[int] | None = None,
    roi: Roi | None = None,
    intensity: Intensity | None = None,
    corrected: CorrectedSlices | None = None,
    cache: EmbeddingCache | None = None,
    cleanup: CleanUp | None = None,
    refinement: Refinement | None = None,
    uncertainty: bool = False,
    batch: int | None = None,
    progress: Progress = silent,
    on_slice: OnSlice | None = None,
) -> SegmentationResult:
    """Segment a volume, or some of its slices.

    Besides the volume, its gray levels and its labels (one byte a voxel each), memory holds a few
    slices only, whatever the volume's length. Where it runs out all the same, fewer slices are
    encoded at a time; if a GPU cannot take a single one, the rest is computed on the CPU and
    `notes` says so. Model and backbone are on their device again afterwards.

    Args:
        adapted: as `load_adapted` and `finetune` give it.
        axis: of the slices, by default the plane that the model was trained on.
        slices: numbers along that axis, by default all. The others stay 0.
        roi: where labels are written, by default everywhere; the model is shown whole slices.
        intensity: by default that of the training. Percentiles are those of the whole volume.
        corrected: slices whose labels are known: they come out as they are, and the others follow
            them, see `CorrectedShapes`. Memory then holds four slices more for each structure.
        cache: where embeddings are looked up and kept.
        cleanup: by default none.
        refinement: by default none.
        uncertainty: tell how uncertain the labels are too; takes four more bytes a voxel.
        batch: slices per pass of the encoder, see `embed_slices`.
        progress: told after every pass; if it raises Cancelled, the slices done are kept.
        on_slice: called with the number and the labels [rows, columns], oriented as by
            `SliceStack`, of every slice once it is done; 0 outside of the region. Parts are removed
            at the very end only.

    Raises:
        SAMAutoSegError: unknown axis, a slice that is out of range, no slice inside the region,
            corrected labels of another size, or not enough memory for a single
            slice on the CPU.
    """
    cleanup = cleanup or CleanUp()
    card = adapted.card
    plane = plane_for(volume.grid, card.plane, axis)
    gray = (intensity or card.intensity).apply(volume.array)
    whole = SliceStack(gray, volume.grid, plane)
    roi = roi or Roi(*((0, length) for length in volume.grid.size))
    across = "ijk"[whole.axis_index]
    # Cut along rows and columns only: the slices beside the region are its slices' neighbors. The
    # model is shown whole slices, as in its training: in a part of one it does not find its way.
    slab = replace(roi, **{across: (0, len(whole))})
    shown = slab.crop(replace(volume, array=gray))
    images = SliceStack(shown.array, shown.grid, plane)
    numbers = _chosen(slices, len(whole), getattr(roi, across))

    values = np.array([0, *(structure.label for structure in card.structures)])
    values = values.astype(label_type(card.structures))
    result = SegmentationResult(np.zeros(volume.array.shape, values.dtype))
    result.notes += _notes(gray, plane, card)
    labels = SliceStack(result.labels[slab.kji], shown.grid, plane)
    labels_of_whole = SliceStack(result.labels, volume.grid, plane)
    doubts = None
    if uncertainty:
        result.uncertainty = np.zeros(volume.array.shape, np.float32)
        doubts = SliceStack(result.uncertainty[slab.kji], shown.grid, plane)
    shapes = None if corrected is None else _shapes(corrected, volume, images, slab, card)
    left = [number for number in numbers if shapes is None or number not in shapes.classes]
    decoder = SliceDecoder(adapted, whole, refinement, cache)
    inside = _part_of_slices(slab, volume, plane)
    found = decoder.decode(left, batch, progress)
    maps: Maps = ((number, logits[:, *inside]) for number, logits in found)
    if shapes is not None:
        maps = with_corrected(maps, numbers, shapes)
    if cleanup.smooth_slices_mm:
        maps = _smoothed(maps, cleanup.smooth_slices_mm / images.slice_spacing)
    known = {} if shapes is None else shapes.classes
    for number, scores in maps:
        given = number in known
        # Five times as fast as argmax on a CPU.
        best = known[number] if given else scores.max(0).indices.cpu().numpy()
        labels.put(number, values[best])
        if doubts is not None and given:
            result.uncertainty_by_slice[number] = 0.0
        elif doubts is not None:
            doubt = wrong_probability(scores, card.temperature).cpu().numpy()
            doubts.put(number, doubt)
            result.uncertainty_by_slice[number] = float(doubt.sum(dtype=np.float64))
        result.slices_done.append(number)
        if on_slice is not None:
            on_slice(number, labels_of_whole.slice_at(number))
    result.cancelled, result.trace = decoder.cancelled, decoder.trace
    result.notes += decoder.notes
    if cleanup.removes_parts:
        along = np.moveaxis(labels.array, 2 - labels.axis_index, 0)
        for run in _runs(result.slices_done):
            sure = [number - run.start for number in known if run.start <= number < run.stop]
            remove_parts(along[run], volume.grid.voxel_volume_mm3, cleanup, sure)
    return result


def _notes(gray: np.ndarray, plane: Plane, card: ModelCard) -> list[str]:
    notes = []
    if gray.min() == gray.max():
        notes.append(
            "all of the image is shown in one gray level, so nothing can be seen in it: check the "
            "file, or choose other intensity limits"
        )
    if plane != card.plane:
        notes.append(f"{plane} slices, though the model was trained on {card.plane} ones")
    return notes


def _smoothed(maps: Maps, sigma: float) -> Maps:
    """Logarithms of probabilities that are smoothed across slices, sigma in slices."""
    shares = ((number, logits.softmax(0)) for number, logits in maps)
    for number, mean in smooth_across_slices(shares, sigma):
        yield number, mean.clamp(min=_LEAST_SHARE).log()


def _part_of_slices(slab: Roi, volume: Volume, plane: Plane) -> tuple[slice, slice]:
    """The rows and columns of slices that lie in a region which is as long as the volume."""
    mask = np.zeros(volume.array.shape, bool)
    mask[slab.kji] = True
    shown = SliceStack(mask, volume.grid, plane).slice_at(0)
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _shapes(
    corrected: CorrectedSlices, volume: Volume, images: SliceStack, slab: Roi, card: ModelCard
) -> CorrectedShapes:
    """What the corrected slices say, within the region."""
    shape, count = corrected.labels.shape, len(images)
    if shape != volume.array.shape:
        raise SAMAutoSegError(
            f"corrected labels of {shape} voxels (K, J, I) for an image of {volume.array.shape}: "
            "expected labels on the image's grid"
        )
    stack = SliceStack(corrected.labels[slab.kji], images.grid, images.plane)
    return CorrectedShapes(
        {
            number: as_classes(stack.slice_at(number), card.structures)
            for number in _within(corrected.slices, count)
        },
        len(card.structures) + 1,
        images.pixel_spacing,
        images.slice_spacing,
    )


def _chosen(slices: Sequence[int] | None, count: int, inside: tuple[int, int]) -> list[int]:
    """The slices to segment, in order."""
    wanted = range(count) if slices is None else _within(slices, count)
    first, end = inside
    chosen = [number for number in wanted if first <= number < end]
    if not chosen:
        raise SAMAutoSegError(
            f"no slice to segment: the chosen ones lie outside of the region's {first} to {end - 1}"
        )
    return chosen


def _within(slices: Sequence[int], count: int) -> list[int]:
    """Slice numbers in order, once each."""
    wanted = sorted(set(slices))
    wrong = [number for number in wanted if not 0 <= number < count]
    if wrong:
        raise SAMAutoSegError(
            f"slice {wrong[0]} is out of range: the volume has slices 0 to {count - 1} on this axis"
        )
    return wanted


def _runs(numbers: list[int]) -> Iterator[slice]:
    """Groups of consecutive numbers."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return (slice(start, end + 1) for start, end in zip(starts, ends, strict=True))
