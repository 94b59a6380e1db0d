"""Embeddings kept on disk, so that every slice meets the encoder once."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from SAMAutoSegLib import __version__
from SAMAutoSegLib.device import is_out_of_memory
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, user_cache_dir
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam.backbone import Backbone

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 4 * 1024**3
SUFFIX = ".safetensors"


class EmbeddingCache:
    """A folder of embeddings, one file each, the least recently used removed at the limit.

    A file is used only if it names the key it is asked for and its tensor has the SHA-256 it
    states; anything else is removed and counts as absent. A folder that may not be read counts as
    empty, and files in it that may not be changed or removed stay as they are.

    Attributes:
        misses: how often an embedding was asked for that was absent.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder or user_cache_dir() / "embeddings"
        self.max_bytes = max_bytes
        self.failed = False  # a write failed: none is tried any more
        self.misses = 0
        self._bytes = self._measure()

    def key(self, backbone: Backbone, image: np.ndarray, encoder_blocks: int = 0) -> str:
        """Names everything the embedding depends on: 64 hexadecimal digits.

        The slice's pixels and shape, the encoder's weights, the input specification, the
        precision and this library's version.
        """
        facts = {
            "shape": image.shape,
            "type": str(image.dtype),
            "encoder": backbone.encoder_sha256,
            "spec": backbone.spec.to_json(),
            "precision": str(backbone.precision),
            "attention": backbone.attention,
            "before_last": encoder_blocks,
            "version": __version__,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> Tensor | None:
        """The embedding kept under `key`, None where there is none that can be trusted."""
        tensor = self._read(key)
        self.misses += tensor is None
        return tensor

    def _read(self, key: str) -> Tensor | None:
        path = self._path(key)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                facts = file.metadata() or {}
                tensor = file.get_tensor("embedding")
        except OSError:
            return None
        except SafetensorError as error:
            return self._distrust(path, str(error))
        if facts.get("key") != key:
            wrong = "it is the entry of another slice or model"
        elif facts.get("sha256") != _digest(tensor):
            wrong = "its content does not have the checksum it states"
        else:
            with suppress(OSError):  # it may be another user's
                os.utime(path)
            return tensor
        del tensor  # what is still mapped cannot be removed on Windows
        return self._distrust(path, wrong)

    def put(self, key: str, embedding: Tensor) -> None:
        """Keep an embedding, and remove the least recently used ones beyond the limit.

        Raises:
            SAMAutoSegError: the folder is not writable or the disk is full.
        """
        tensor = embedding.detach().cpu().contiguous()
        if tensor.numel() * tensor.element_size() > self.max_bytes:
            return
        path = self._path(key)
        with replace_when_complete(path) as temporary:
            # Not `save_file`, which makes files that no other user of a shared folder may read.
            content = save({"embedding": tensor}, {"key": key, "sha256": _digest(tensor)})
            self._bytes += temporary.write_bytes(content)
        if self._bytes > self.max_bytes:
            self._evict()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.glob(f"[0-9a-f]*{SUFFIX}")) if self.folder.is_dir() else []
        except OSError:
            return []

    def _measure(self) -> int:
        return sum(state.st_size for _, state in self._states())

    def _states(self) -> list[tuple[Path, os.stat_result]]:
        """The entries; another process that uses the folder may remove some meanwhile."""
        found = []
        for path in self._files():
            with suppress(OSError):
                found.append((path, path.stat()))
        return found

    def _distrust(self, path: Path, reason: str) -> Tensor | None:
        """Remove an entry; the answer to who asked for it is None."""
        log.warning("embedding cache: %s is computed again: %s", path.name, reason)
        with suppress(OSError):
            path.unlink()
        return None

    def _evict(self) -> None:
        """Down to nine tenths of the limit, so that not every entry pays for a look around."""
        states = self._states()
        self._bytes = sum(state.st_size for _, state in states)
        for path, state in sorted(states, key=lambda pair: pair[1].st_mtime_ns):
            if self._bytes <= self.max_bytes * 9 // 10:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
                self._bytes -= state.st_size


def embed_slices(
    backbone: Backbone,
    slices: Sequence[np.ndarray],
    *,
    numbers: Sequence[int] | None = None,
    cache: EmbeddingCache | None = None,
    batch: int | None = None,
    encoder_blocks: int = 0,
    progress: Progress = silent,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (n, embedding [256, e, e] float32 on the backbone's device) for slices in order.

    Lazily, so that a volume's embeddings need not be in memory at once. Where memory runs out
    the batch is halved; a single slice that does not fit raises torch's error.

    Args:
        slices: uint8 slices [H, W].
        numbers: which slices, by default all.
        cache: where embeddings are looked up and kept; None keeps nothing.
        batch: slices per pass of the encoder, by default 8 on a GPU and 1 on a CPU.
        encoder_blocks: give what enters so many last blocks instead, see `Backbone.encode`.
        progress: told after every pass; may raise Cancelled.
    """
    wanted = list(range(len(slices)) if numbers is None else numbers)
    size = batch or (8 if backbone.device.type == "cuda" else 1)
    done = 0
    while done < len(wanted):
        group = wanted[done : done + size]
        images = [slices[n] for n in group]
        try:
            found = embed_images(backbone, images, cache, encoder_blocks)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
            log.warning("out of memory: encoding %d slices at a time", size)
            continue
        yield from zip(group, found, strict=True)
        done += len(group)
        progress(done / len(wanted), f"encoding slices: {done} of {len(wanted)}")


def embed_images(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    cache: EmbeddingCache | None = None,
    encoder_blocks: int = 0,
) -> list[Tensor]:
    """As `embed_slices`, in one pass, of any slices [H, W]."""
    keys = [cache.key(backbone, image, encoder_blocks) if cache else "" for image in images]
    found = [cache.get(key) if cache else None for key in keys]
    absent = [n for n, tensor in enumerate(found) if tensor is None]
    if absent:
        inputs = [backbone.spec.prepare(images[n]) for n in absent]
        encoded = backbone.encode(torch.stack(inputs), encoder_blocks)
        for n, tensor in zip(absent, encoded, strict=True):
            found[n] = tensor
            if cache:
                _keep(cache, keys[n], tensor.to(backbone.precision))
    return [t.to(backbone.device, torch.float32) for t in found if t is not None]


def _keep(cache: EmbeddingCache, key: str, tensor: Tensor) -> None:
    if cache.failed:
        return
    try:
        cache.put(key, tensor)
    except (SAMAutoSegError, OSError) as error:
        # A full disk costs time at the next visit, not the work at hand.
        cache.failed = True
        log.warning("embeddings are not kept: %s", error)


def _digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
