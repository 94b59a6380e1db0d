from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMAutoSegLib.device import choose_precision
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.volume import SegmentationResult, segment_volume


def run(segmenter, volume: Volume, **options) -> SegmentationResult:
    return segment_volume(volume, segmenter, **options)


def logits_of(segmenter, gray: np.ndarray) -> torch.Tensor:
    """Logits [K, rows, columns] of a slice, step by step."""
    backbone, model = segmenter.backbone, segmenter.model
    prepared = backbone.spec.prepare(np.ascontiguousarray(gray))
    with torch.inference_mode():
        low_res = model(backbone.encode(prepared[None]))
        return backbone.spec.logits_to_slice(low_res[0], gray.shape)


def stored_as(volume: Volume, axes: tuple[int, int, int], flips: tuple[int, ...]) -> Volume:
    """The same voxels at the same places in the patient, in another order of storage.

    Axis n of the new grid (I, J, K) is axis `axes[n]` of the old one; `flips` are new axes.
    """
    array = volume.array.transpose([2 - axes[2 - n] for n in range(3)])
    array = np.flip(array, [2 - n for n in flips])
    old = volume.grid
    direction = old.direction[:, axes].copy()
    spacing = tuple(old.spacing[a] for a in axes)
    size = tuple(old.size[a] for a in axes)
    corner = np.zeros(4)
    corner[3] = 1
    for n in flips:
        corner[axes[n]] = size[n] - 1
        direction[:, n] *= -1
    origin = tuple(float(x) for x in (old.ijk_to_lps @ corner)[:3])
    return Volume(array, Grid(size, spacing, origin, direction), "stored otherwise")


def test_labels_are_the_structures_values_on_the_images_grid(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    result = run(tiny, volume)
    assert result.labels.shape == volume.array.shape and result.labels.dtype == np.uint8
    assert set(np.unique(result.labels)) == {0, 3, 7}
    assert result.slices_done == [0, 1, 2, 3, 4]
    assert not result.cancelled and result.notes == []


def test_a_slice_gets_its_most_probable_classes(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    result = run(tiny, volume)
    for n in range(5):
        logits = logits_of(tiny, volume.array[n].astype(np.uint8))
        expected = np.array([0, 3, 7])[logits.argmax(0).numpy()]
        assert np.array_equal(result.labels[n], expected)


def test_a_label_above_255_needs_two_bytes(segmenter, scan) -> None:
    result = run(segmenter(labels=(3, 300)), scan())
    assert result.labels.dtype == np.uint16
    assert set(np.unique(result.labels)) == {0, 3, 300}


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(
    ("axes", "flips"),
    [((0, 1, 2), (0,)), ((0, 1, 2), (1, 2)), ((2, 0, 1), ()), ((1, 2, 0), (0, 2))],
)
def test_the_order_of_storage_does_not_matter(segmenter, scan, axes, flips, axis) -> None:
    volume, tiny = scan((12, 9, 7), (0.8, 1.1, 3.0)), segmenter()
    other = stored_as(volume, axes, flips)
    straight = replace(volume, array=run(tiny, volume, axis=axis).labels)
    assert len(np.unique(straight.array)) > 1
    found = run(tiny, other, axis=axis).labels
    assert np.array_equal(found, stored_as(straight, axes, flips).array)


def test_an_oblique_volume_is_segmented_along_its_own_axes(segmenter, scan) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    tilted = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    tiny = segmenter()
    assert np.array_equal(run(tiny, scan(direction=tilted)).labels, run(tiny, scan()).labels)


@pytest.mark.parametrize(("size", "count"), [((40, 30, 1), 1), ((7, 61, 2), 2), ((33, 1, 2), 1)])
def test_thin_and_uneven_volumes_keep_their_shape(segmenter, scan, size, count) -> None:
    """The last one is one coronal slice."""
    result = run(segmenter(), scan(size))
    assert result.labels.shape == size[::-1]
    assert result.slices_done == list(range(count))


def test_only_the_chosen_slices_are_segmented(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    whole = run(tiny, volume).labels
    result = run(tiny, volume, slices=[3, 1])
    assert result.slices_done == [1, 3]
    assert np.array_equal(result.labels[[1, 3]], whole[[1, 3]])
    assert not result.labels[[0, 2, 4]].any()


@pytest.mark.parametrize("number", [-1, 5])
def test_a_slice_out_of_range_is_named(segmenter, scan, number) -> None:
    with pytest.raises(SAMAutoSegError, match=rf"slice {number} is out of range: .* 0 to 4"):
        run(segmenter(), scan(), slices=[0, number])


@pytest.mark.parametrize("axis", ["axial", "sagittal", "coronal"])
def test_a_region_is_segmented_as_in_the_whole_and_nothing_outside(segmenter, scan, axis) -> None:
    turned = np.diag([-1.0, 1.0, -1.0])
    volume, tiny = scan((40, 30, 25), direction=turned), segmenter()
    roi = Roi((5, 33), (2, 30), (1, 24))
    told = {}
    result = run(
        tiny,
        volume,
        roi=roi,
        axis=axis,
        uncertainty=True,
        on_slice=lambda number, labels: told.update({number: labels.copy()}),
    )
    stack = SliceStack(result.labels, volume.grid, axis)
    assert all(np.array_equal(labels, stack.slice_at(n)) for n, labels in told.items())
    assert list(told) == result.slices_done
    whole = run(tiny, volume, axis=axis, uncertainty=True)
    inside = whole.labels[roi.kji]
    assert np.array_equal(result.labels[roi.kji], inside) and inside.any()
    doubt = whole.uncertainty[roi.kji]  # other batches round otherwise
    np.testing.assert_allclose(result.uncertainty[roi.kji], doubt, atol=1e-5)
    outside = result.labels.copy()
    outside[roi.kji] = 0
    assert not outside.any()


def test_slices_and_region_together_are_what_both_hold(segmenter, scan) -> None:
    roi = Roi((0, 40), (0, 30), (1, 4))
    assert run(segmenter(), scan(), roi=roi, slices=[0, 1, 3]).slices_done == [1, 3]
    with pytest.raises(SAMAutoSegError, match="outside of the region's 1 to 3"):
        run(segmenter(), scan(), roi=roi, slices=[0, 4])


def test_percentiles_are_those_of_the_whole_volume(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    volume.array[4] *= 10
    roi = Roi((0, 40), (0, 30), (0, 2))
    intensity = Intensity("percentile", 1, 99)
    whole = run(tiny, volume, intensity=intensity).labels
    assert np.array_equal(run(tiny, volume, intensity=intensity, roi=roi).labels[:2], whole[:2])


def test_another_plane_than_the_trained_one_is_remarked(segmenter, scan) -> None:
    result = run(segmenter(), scan((6, 30, 5)), axis="sagittal")
    assert result.notes == ["sagittal slices, though the model was trained on axial ones"]
    assert len(result.slices_done) == 6


def test_the_intensity_of_the_training_is_the_default(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    window = Intensity("window", 60, 190)
    other = replace(tiny, card=replace(tiny.card, intensity=window))
    found = run(other, volume).labels
    assert np.array_equal(found, run(tiny, volume, intensity=window).labels)
    assert not np.array_equal(found, run(tiny, volume).labels)


def test_kept_embeddings_are_used(segmenter, scan, tmp_path: Path) -> None:
    volume, tiny = scan(), segmenter()
    first = run(tiny, volume, cache=EmbeddingCache(tmp_path)).labels
    tiny.backbone.encode = None
    again = run(tiny, volume, cache=EmbeddingCache(tmp_path))
    assert np.array_equal(again.labels, first)


def test_bfloat16_segments_almost_the_same(segmenter, scan) -> None:
    volume = scan()
    exact = run(segmenter(), volume).labels
    rounded = run(segmenter(precision=torch.bfloat16), volume).labels
    assert 0.95 < np.mean(exact == rounded) < 1


def test_every_slice_is_told_once_it_is_done(segmenter, scan) -> None:
    told: dict[int, np.ndarray] = {}
    volume = scan(direction=np.diag([-1.0, 1.0, 1.0]))
    result = run(segmenter(), volume, on_slice=lambda n, found: told.update({n: found.copy()}))
    stack = SliceStack(result.labels, volume.grid)
    assert list(told) == [0, 1, 2, 3, 4]
    assert all(np.array_equal(told[n], stack.slice_at(n)) for n in told)


@pytest.mark.parametrize("cleanup", [CleanUp(), CleanUp(smooth_slices_mm=5)])
def test_cancelling_keeps_the_slices_that_are_done(segmenter, scan, cleanup) -> None:
    def cancel_late(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("cancelled")

    volume, tiny = scan(), segmenter()
    result = run(tiny, volume, progress=cancel_late, cleanup=cleanup)
    assert result.cancelled and result.slices_done == [0, 1, 2]
    assert not result.labels[3:].any()
    whole = run(tiny, volume, cleanup=cleanup).labels
    assert np.array_equal(result.labels[:2], whole[:2]) or cleanup.smooth_slices_mm
    assert all(result.labels[n].any() for n in (0, 1, 2))


def test_cancelling_at_once_keeps_nothing(segmenter, scan) -> None:
    def cancel(fraction: float, message: str) -> None:
        raise Cancelled("cancelled")

    result = run(segmenter(), scan(), progress=cancel)
    assert result.cancelled and result.slices_done == [] and not result.labels.any()


def test_progress_rises_to_one(segmenter, scan) -> None:
    told: list[float] = []
    run(segmenter(), scan(), progress=lambda fraction, _: told.append(fraction), batch=2)
    assert told == [0, 0.4, 0.8, 1]


def test_out_of_memory_halves_the_batch(segmenter, scan) -> None:
    volume, tiny = scan(), segmenter()
    whole = run(tiny, volume).labels
    encode, tried = tiny.backbone.encode, []

    def small_memory(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        tried.append(len(images))
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(images, before_last)

    tiny.backbone.encode = small_memory
    result = run(tiny, volume, batch=4)
    assert tried == [4, 2, 2, 1]
    assert np.array_equal(result.labels, whole) and result.notes == []


@pytest.fixture
def moves() -> list:
    """What `on_gpu` was moved to, in order."""
    return []


@pytest.fixture
def on_gpu(segmenter, monkeypatch, moves):
    """A segmenter on a GPU in name only, everything is computed on the CPU."""
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    tiny = segmenter()

    def move(device: torch.device, precision: torch.dtype) -> None:
        moves.append((str(device), precision))
        tiny.backbone.device = device

    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda t, *a, **k: to(t, *(cpu if x == gpu else x for x in a), **k)
    )
    monkeypatch.setattr(tiny.backbone, "device", gpu)
    monkeypatch.setattr(tiny.backbone, "to", move)
    monkeypatch.setattr(tiny.model, "to", lambda device: moves.append(f"model {device}"))
    return tiny


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_gpu_that_is_too_small_leaves_the_rest_to_the_cpu(
    segmenter, on_gpu, moves, scan, monkeypatch, part: str
) -> None:
    volume, done = scan(), []
    encode, forward = on_gpu.backbone.encode, on_gpu.model.forward

    def fill_memory(own: str) -> None:
        if part == own and on_gpu.backbone.device.type == "cuda" and len(done) >= 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def encode_there(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        fill_memory("encoder")
        return encode(images, before_last)

    def forward_there(features: torch.Tensor) -> torch.Tensor:
        fill_memory("decoder")
        return forward(features)

    monkeypatch.setattr(on_gpu.backbone, "encode", encode_there)
    monkeypatch.setattr(on_gpu.model, "forward", forward_there)
    result = run(on_gpu, volume, batch=1, on_slice=lambda n, _: done.append(n))

    assert np.array_equal(result.labels, run(segmenter(), volume).labels)
    assert result.slices_done == [0, 1, 2, 3, 4]
    assert result.notes == [
        "cuda:0 ran out of memory at a single slice: the last 3 of 5 slices were computed on the "
        "CPU"
    ]
    own = choose_precision(torch.device("cpu"))
    back = ("cuda:0", torch.float32)
    assert moves == [("cpu", own), "model cpu", back, "model cuda:0"]


def test_a_decoder_without_memory_gets_that_of_the_batch_first(
    segmenter, on_gpu, moves, scan, monkeypatch
) -> None:
    volume, batches = scan(), []
    encode, forward = on_gpu.backbone.encode, on_gpu.model.forward

    def encode_there(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        batches.append(len(images))
        return encode(images, before_last)

    def forward_there(features: torch.Tensor) -> torch.Tensor:
        if batches[-1] > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(features)

    monkeypatch.setattr(on_gpu.backbone, "encode", encode_there)
    monkeypatch.setattr(on_gpu.model, "forward", forward_there)
    result = run(on_gpu, volume, batch=3)
    assert batches == [3, 1, 1, 1, 1, 1]
    assert np.array_equal(result.labels, run(segmenter(), volume).labels)
    assert result.notes == [] and moves == []


def test_a_cpu_that_is_too_small_is_an_error(segmenter, scan) -> None:
    tiny = segmenter()

    def full(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        return torch.empty(1 << 60)

    tiny.backbone.encode = full
    with pytest.raises(SAMAutoSegError, match="not enough memory for slice 0"):
        run(tiny, scan())


def test_an_error_that_is_not_about_memory_is_not_hidden(segmenter, scan) -> None:
    tiny = segmenter()

    def broken(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    tiny.backbone.encode = broken
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tiny, scan())


def test_smoothing_is_of_probabilities_and_in_millimeters_across_slices(segmenter, scan) -> None:
    volume, tiny = scan((24, 20, 9), (0.8, 0.8, 2.0)), segmenter()
    low_res = 5 * torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = tiny.backbone.spec.logits_to_slice(low_res, (20, 24))
    answers = iter(low_res)
    tiny.model.forward = lambda features: next(answers)[None]

    def smoothed(scores: torch.Tensor) -> np.ndarray:
        # 4 mm are 2 slices. Divided by the weight inside, nothing is left to the outside.
        blur = {"sigma": 2.0, "axis": 0, "mode": "constant", "truncate": 3.0}
        smooth = ndimage.gaussian_filter1d(scores.numpy(), **blur)
        smooth /= ndimage.gaussian_filter1d(np.ones(scores.shape), **blur)
        return np.array([0, 3, 7])[smooth.argmax(1)]

    found = run(tiny, volume, cleanup=CleanUp(smooth_slices_mm=4.0)).labels
    right, wrong = smoothed(logits.softmax(1)), smoothed(logits)
    assert np.mean(found == right) > 0.999
    assert np.mean(wrong == right) < 0.9


def test_clean_up_treats_each_group_of_neighboring_slices_by_itself(segmenter, scan) -> None:
    volume, tiny = scan((40, 30, 6)), segmenter()
    cleanup = CleanUp(largest_component=True)
    result = run(tiny, volume, slices=[0, 1, 4], cleanup=cleanup)
    for group in (slice(0, 2), slice(4, 5)):
        for label in (3, 7):
            assert ndimage.label(result.labels[group] == label)[1] == 1


def test_clean_up_is_along_any_axis_and_inside_the_region(segmenter, scan) -> None:
    volume, tiny = scan((12, 20, 16)), segmenter()
    roi = Roi((3, 10), (4, 18), (2, 15))
    result = run(tiny, volume, axis="sagittal", roi=roi, cleanup=CleanUp(largest_component=True))
    raw = run(tiny, volume, axis="sagittal", roi=roi).labels
    for label in (3, 7):
        numbered, count = ndimage.label(raw == label)
        largest = numbered == 1 + np.bincount(numbered[numbered > 0])[1:].argmax()
        assert count > 1
        assert np.array_equal(result.labels == label, largest)
