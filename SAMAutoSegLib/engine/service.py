"""What the engine process does with requests, one at a time, the most urgent first."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SAMAutoSegLib.engine.arrays import (
    ArrayFile,
    fill_array,
    open_array,
    reserve_array,
    share_array,
)
from SAMAutoSegLib.engine.between_layers import between_layers
from SAMAutoSegLib.engine.channel import Channel
from SAMAutoSegLib.engine.clicks import Clicks
from SAMAutoSegLib.engine.explain import explain, ran_out_of_memory
from SAMAutoSegLib.engine.machine import devices, leave_a_core
from SAMAutoSegLib.engine.models import Loaded, LoadedModels
from SAMAutoSegLib.engine.pace import Paces
from SAMAutoSegLib.engine.protocol import VERSION, Request
from SAMAutoSegLib.engine.time_left import TimeLeft
from SAMAutoSegLib.engine.volumes import OpenVolumes, as_volume
from SAMAutoSegLib.engine.work_queue import WorkQueue
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.slices import Plane, SliceStack, plane_for
from SAMAutoSegLib.images.structure import label_type
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.sam.embedding_cache import EmbeddingCache
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.refinement import Refinement, decisions
from SAMAutoSegLib.segment.volume import SegmentationResult, segment_volume

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_PROGRESS = 0.1

_MOST_DETAILS = 20_000

# Encoding ahead can wait for all but another segmentation, which begins a slice later.
_AHEAD = Request(-1, "segment", {})

Answer = dict[str, Any]


class Service:
    """Holds models, volumes and embeddings, and answers requests with them.

    Args:
        channel: where events go.
        work: where requests come from.
        folder: says where arrays are shared.
    """

    def __init__(self, channel: Channel, work: WorkQueue, folder: Callable[[], Path]) -> None:
        self._channel = channel
        self._work = work
        self._folder = folder
        self._volumes = OpenVolumes()
        self._models = LoadedModels()
        self._cache = EmbeddingCache()
        self._clicks = Clicks(self._volumes, self._models, self._cache)
        self._paces = Paces()
        self._threads = leave_a_core()

    def run(self) -> None:
        """Answer requests until the queue is closed; encode ahead where there are none."""
        ahead = False
        while not self._work.closed:
            request = self._work.take(0.0 if ahead else None)
            if request is not None:
                self._serve(request)
                ahead = True
            elif ahead:
                ahead = self._look_ahead()

    def _look_ahead(self) -> bool:
        def look_up() -> None:
            self._serve_urgent(_AHEAD)
            if self._work.closed:
                raise Cancelled("nobody waits any more")

        try:
            with between_layers(look_up):
                return self._clicks.look_ahead()
        except Cancelled:
            return False
        except Exception as error:
            # Nobody waits for it: whoever clicks there is told then.
            log.exception("encoding ahead")
            self._clicks.forget()
            self._channel.send("log", message=f"slices are not prepared ahead: {explain(error)[0]}")
            return False

    def _serve(self, request: Request) -> None:
        """Answer a request; whatever happens, with one event that ends it."""
        exhausted = False
        try:
            answer = getattr(self, f"_{request.do}")(request)
            event = "cancelled" if answer.pop("cancelled", False) else "result"
        except Cancelled:
            event, answer = "cancelled", {}
        except Exception as error:
            log.exception("request %s", request.do)
            message, details = explain(error)
            event, answer = "error", {"message": message, "details": details[-_MOST_DETAILS:]}
            exhausted = ran_out_of_memory(error)
        if exhausted:  # outside of the except clause, which keeps what filled the memory alive
            self._clicks.forget()
            self._models.forget()
        self._work.finish(request)
        self._channel.send(event, request.id, **answer)

    def _serve_urgent(self, than: Request) -> None:
        """Answer what cannot wait for the end of `than`."""
        while (urgent := self._work.take_more_urgent(than)) is not None:
            self._serve(urgent)

    def _hello(self, request: Request) -> Answer:
        return {
            "version": VERSION,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "pid": os.getpid(),
            "threads": self._threads,
        }

    def _devices(self, request: Request) -> Answer:
        return devices()

    def _open_volume(self, request: Request) -> Answer:
        params = request.params
        volume = as_volume(params, open_array(params["array"]))
        self._clicks.forget_volume(params["volume"])
        self._volumes.open(params["volume"], volume)
        return {"volume": params["volume"]}

    def _close_volume(self, request: Request) -> Answer:
        self._clicks.forget_volume(request.params["volume"])
        self._volumes.close(request.params["volume"])
        return {}

    def _estimate(self, request: Request) -> Answer:
        params = request.params
        volume = self._volumes[params["volume"]]
        loaded = self._loaded(params)
        return {"seconds": self._paces.seconds(volume, loaded, params.get("axis"))}

    def _prepare_clicks(self, request: Request) -> Answer:
        self._clicks.prepare(request.params)
        return {}

    def _click(self, request: Request) -> Answer:
        mask, score = self._clicks.answer(request.params)
        return {"mask": share_array(self._folder(), mask), "score": score}

    def _segment(self, request: Request) -> Answer:
        started = time.monotonic()
        params = request.params
        volume = self._volumes[params["volume"]]
        cleanup = _cleanup(params.get("cleanup") or {})
        refinement = None
        if params.get("refine"):
            refinement = Refinement(params["refine"], params.get("keep_iteration"))
        intensity = Intensity.parse(params["intensity"]) if params.get("intensity") else None
        roi = Roi.within(volume.grid.size, params["roi"]) if params.get("roi") else None
        self._tell(request, 0.0, "loading the model", None)
        loaded = self._loaded(params)
        adapted = loaded.adapted
        if adapted is None:
            raise SAMAutoSegError(
                f"{loaded.backbone.name} is a plain SAM, which knows no structures: click, draw "
                "boxes, or train it first"
            )
        plane = plane_for(volume.grid, adapted.card.plane, params.get("axis"))
        corrected = _corrected(params, volume, plane)
        shape, reserved = volume.array.shape, {}
        reserved["labels"] = reserve_array(
            self._folder(), label_type(adapted.card.structures), shape
        )
        if params.get("uncertainty"):
            reserved["doubts"] = reserve_array(self._folder(), np.dtype(np.uint8), shape)
        told = -_SECONDS_BETWEEN_PROGRESS
        time_left = TimeLeft()

        def look_up() -> None:
            self._serve_urgent(request)
            if self._work.is_cancelled(request):
                raise Cancelled("cancelled")

        def progress(fraction: float, message: str) -> None:
            nonlocal told
            look_up()
            left = time_left.at(fraction)
            if time.monotonic() - told >= _SECONDS_BETWEEN_PROGRESS or fraction >= 1.0:
                told = time.monotonic()
                self._tell(request, fraction, message, left)

        hidden: list[int] = []

        def on_slice(number: int, found: np.ndarray) -> None:
            try:
                shared = share_array(self._folder(), found)
            except SAMAutoSegError:  # a full disk; there is room for the result
                hidden.append(number)
                return
            self._channel.send("slice", request.id, number=number, axis=plane, array=shared)

        begun, misses = time.monotonic(), self._cache.misses
        try:
            with between_layers(look_up):
                result = segment_volume(
                    volume,
                    adapted,
                    axis=plane,
                    slices=params.get("slices"),
                    roi=roi,
                    intensity=intensity,
                    corrected=corrected,
                    cache=self._cache,
                    cleanup=cleanup,
                    refinement=refinement,
                    uncertainty="doubts" in reserved,
                    progress=progress,
                    on_slice=on_slice,
                )
            encoded = self._cache.misses - misses
            if 2 * encoded > len(result.slices_done):  # kept embeddings cost next to nothing
                self._paces.note(loaded, time.monotonic() - begun, encoded)
            if hidden:
                result.notes.append(
                    f"the disk is full: {len(hidden)} slices were not shown before the end"
                )
            return _segmented(result, reserved, plane, time.monotonic() - started)
        except BaseException:
            for shared in reserved.values():
                with suppress(OSError):
                    Path(shared["file"]).unlink()
            raise

    def _loaded(self, params: dict[str, Any]) -> Loaded:
        return self._models.get(
            params["model"],
            base=params.get("base"),
            device=params.get("device"),
            precision=params.get("precision"),
        )

    def _tell(self, request: Request, fraction: float, message: str, left: float | None) -> None:
        self._channel.send(
            "progress", request.id, fraction=fraction, message=message, seconds_left=left
        )


def _corrected(params: dict[str, Any], volume: Volume, plane: Plane) -> CorrectedSlices | None:
    slices = params.get("corrected_slices")
    if not slices:
        return None
    given = open_array(params["corrected"]) if "corrected" in params else np.zeros(0)
    labels = np.zeros(volume.array.shape, given.dtype)
    stack = SliceStack(labels, volume.grid, plane)
    expected = (len(slices), *stack.slice_shape)
    if given.shape != expected or max(slices) >= len(stack):
        raise SAMAutoSegError(
            f"corrected slices {slices} with labels of {given.shape}: expected {expected} and "
            f"numbers below {len(stack)}"
        )
    for number, slice_ in zip(slices, given, strict=True):
        stack.put(number, slice_)
    return CorrectedSlices(labels, slices)


def _cleanup(values: dict[str, Any]) -> CleanUp:
    unknown = set(values) - set(CleanUp.__dataclass_fields__)
    if unknown:
        raise SAMAutoSegError(
            f"clean-up {min(unknown)!r} is not known: expected "
            f"{', '.join(CleanUp.__dataclass_fields__)}"
        )
    return CleanUp(**values)


def _segmented(
    result: SegmentationResult, reserved: dict[str, ArrayFile], plane: str, seconds: float
) -> Answer:
    if result.cancelled and not result.slices_done:
        raise Cancelled("cancelled before the first slice was done")
    fill_array(reserved["labels"], result.labels)
    doubts: Answer = {}
    if result.uncertainty is not None:
        # A quarter of the bytes; no view shows finer steps.
        fill_array(reserved["doubts"], np.rint(result.uncertainty * 255).astype(np.uint8))
        by_slice = {str(number): value for number, value in result.uncertainty_by_slice.items()}
        doubts = {"uncertainty": {"per_slice": by_slice, "array": reserved["doubts"]}}
    traced: Answer = {"refined": decisions(result.trace)} if result.trace else {}
    return {
        "labels": reserved["labels"],
        **doubts,
        **traced,
        "axis": plane,
        "slices_done": result.slices_done,
        "notes": result.notes,
        "seconds": round(seconds, 3),
        "cancelled": result.cancelled,
    }
