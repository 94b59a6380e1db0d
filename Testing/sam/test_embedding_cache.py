import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.embedding_cache import SUFFIX, EmbeddingCache, embed_slices
from SAMAutoSegLib.sam.input_spec import InputSpec


@pytest.fixture
def counted(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    """A backbone that notes the size of every batch it encodes."""
    backbone = tiny_backbone()
    backbone.batches = []
    encode = backbone.encode

    def count(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        backbone.batches.append(len(images))
        return encode(images, before_last)

    backbone.encode = count
    return backbone


@pytest.fixture
def stack(picture: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [picture(30, 40, seed=n) for n in range(5)]


def test_a_slice_is_encoded_once(
    counted: Backbone, stack: list[np.ndarray], tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path)
    first = dict(embed_slices(counted, stack, cache=cache, batch=2))
    again = dict(embed_slices(counted, stack, cache=EmbeddingCache(tmp_path), batch=2))
    assert counted.batches == [2, 2, 1]
    assert first.keys() == again.keys() == set(range(5))
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_bfloat16_embeddings_come_back_bit_for_bit(
    tiny_backbone: Callable[..., Backbone], stack: list[np.ndarray], tmp_path: Path
) -> None:
    backbone = tiny_backbone(precision=torch.bfloat16)
    cache = EmbeddingCache(tmp_path)
    first = dict(embed_slices(backbone, stack, cache=cache))
    again = dict(embed_slices(backbone, stack, cache=cache))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert first[0].dtype == torch.float32
    (path, *_) = tmp_path.iterdir()
    assert path.stat().st_size < first[0].numel() * 2 + 1000


def test_only_the_slices_asked_for_are_encoded_in_their_order(
    counted: Backbone, stack: list[np.ndarray]
) -> None:
    found = list(embed_slices(counted, stack, numbers=[4, 1]))
    assert [n for n, _ in found] == [4, 1]
    whole = dict(embed_slices(counted, stack))
    assert all(torch.equal(tensor, whole[n]) for n, tensor in found)


@pytest.mark.parametrize("harm", ["a flipped bit", "cut", "swapped names", "text", "empty"])
def test_a_damaged_or_foreign_entry_is_computed_again(
    harm: str, counted: Backbone, stack: list[np.ndarray], tmp_path: Path
) -> None:
    cache = EmbeddingCache(tmp_path)
    wanted = dict(embed_slices(counted, stack[:2], cache=cache))
    one, other = sorted(tmp_path.iterdir())
    content = bytearray(one.read_bytes())
    if harm == "a flipped bit":
        content[len(content) // 2] ^= 1
    elif harm == "cut":
        del content[len(content) // 2 :]
    elif harm == "text":
        content = bytearray(b"nothing of the kind")
    elif harm == "empty":
        content = bytearray()
    else:
        content = bytearray(other.read_bytes())
        other.write_bytes(one.read_bytes())
    one.write_bytes(content)
    counted.batches.clear()

    found = dict(embed_slices(counted, stack[:2], cache=cache))

    assert sum(counted.batches) == (2 if harm == "swapped names" else 1)
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    counted.batches.clear()
    list(embed_slices(counted, stack[:2], cache=cache))
    assert counted.batches == []


def test_every_flipped_byte_of_the_header_is_noticed(
    tiny_backbone: Callable[..., Backbone], stack: list[np.ndarray], tmp_path: Path
) -> None:
    cache, backbone = EmbeddingCache(tmp_path), tiny_backbone()
    ((_, wanted),) = embed_slices(backbone, stack[:1], cache=cache)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in range(header):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        found = cache.get(path.stem)
        assert found is None or torch.equal(found, wanted)


def test_the_key_names_everything_the_embedding_depends_on(
    tiny_backbone: Callable[..., Backbone], stack: list[np.ndarray], tmp_path: Path
) -> None:
    cache, backbone, image = EmbeddingCache(tmp_path), tiny_backbone(), stack[0]
    key = cache.key(backbone, image)
    assert key == cache.key(tiny_backbone(), image.copy())
    changed_pixel = image.copy()
    changed_pixel[0, 0] ^= 1
    stretched = tiny_backbone()
    stretched.spec = InputSpec(side=128, aspect="stretch")
    others = [
        cache.key(backbone, changed_pixel),
        cache.key(backbone, image.reshape(40, 30)),
        cache.key(tiny_backbone(seed=1), image),
        cache.key(tiny_backbone(precision=torch.bfloat16), image),
        cache.key(tiny_backbone(attention="reference"), image),
        cache.key(stretched, image),
        cache.key(backbone, image, encoder_blocks=1),
    ]
    assert len({key, *others}) == len(others) + 1


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    entry = torch.zeros(1000)
    cache = EmbeddingCache(tmp_path, max_bytes=6 * 4400)
    keys = [f"{n:064x}" for n in range(6)]
    for age, key in enumerate(keys[:5]):
        cache.put(key, entry)
        os.utime(tmp_path / f"{key}.safetensors", (age, age))
    assert cache.get(keys[0]) is not None  # used now, so no longer the oldest

    for key in keys[5:] + [f"{n:064x}" for n in range(10, 12)]:
        cache.put(key, entry)

    assert cache.get(keys[0]) is not None
    assert cache.get(keys[1]) is None
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 6 * 4400


def test_a_limit_below_one_entry_keeps_nothing(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, max_bytes=10).put("a" * 64, torch.zeros(1000))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_time_only(
    counted: Backbone,
    stack: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*arguments: object) -> None:
        raise SAMAutoSegError("no space left")

    cache = EmbeddingCache(tmp_path)
    monkeypatch.setattr(cache, "put", full)
    with caplog.at_level(logging.WARNING):
        assert len(list(embed_slices(counted, stack, cache=cache))) == 5
    assert caplog.text.count("no space left") == 1  # not once for every slice


def refused(*arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "names", [["unlink"], ["unlink", "utime"], ["unlink", "utime", "write_bytes"]]
)
def test_entries_of_another_user_are_used_and_left(
    names: list[str],
    counted: Backbone,
    stack: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = dict(embed_slices(counted, stack, cache=EmbeddingCache(tmp_path)))
    damaged, *_ = sorted(tmp_path.iterdir())
    limit = 3 * damaged.stat().st_size  # so that old entries would have to go
    damaged.write_bytes(b"nothing of the kind")
    counted.batches.clear()
    for name in names:
        monkeypatch.setattr(os if name == "utime" else Path, name, refused)
    cache = EmbeddingCache(tmp_path, max_bytes=limit)
    found = dict(embed_slices(counted, stack, cache=cache))
    assert sum(counted.batches) == 1
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("name", ["is_dir", "glob", "stat"])
def test_a_folder_that_may_not_be_read_costs_time_only(
    name: str,
    counted: Backbone,
    stack: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list(embed_slices(counted, stack, cache=EmbeddingCache(tmp_path)))
    monkeypatch.setattr(Path, name, refused)
    assert len(list(embed_slices(counted, stack, cache=EmbeddingCache(tmp_path)))) == 5


def test_a_file_in_place_of_the_folder_costs_time_only(
    counted: Backbone, stack: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    cache = EmbeddingCache(tmp_path / "cache" / "embeddings")
    assert len(list(embed_slices(counted, stack, cache=cache))) == 5
    assert cache.failed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_entries_may_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        EmbeddingCache(tmp_path).put("a" * 64, torch.zeros(9))
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o644


def test_out_of_memory_halves_the_batch(
    tiny_backbone: Callable[..., Backbone], stack: list[np.ndarray]
) -> None:
    backbone = tiny_backbone()
    encode, tried = backbone.encode, []

    def small_memory(images: torch.Tensor, before_last: int = 0) -> torch.Tensor:
        tried.append(len(images))
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(images, before_last)

    backbone.encode = small_memory
    assert [n for n, _ in embed_slices(backbone, stack, batch=4)] == [0, 1, 2, 3, 4]
    assert tried == [4, 2, 1, 1, 1, 1, 1]


def test_cancelling_keeps_what_is_encoded(
    counted: Backbone, stack: list[np.ndarray], tmp_path: Path
) -> None:
    def cancel_soon(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled("cancelled")

    cache = EmbeddingCache(tmp_path)
    with pytest.raises(Cancelled):
        list(embed_slices(counted, stack, cache=cache, progress=cancel_soon))
    assert len(list(tmp_path.iterdir())) == 3


def test_another_process_may_remove_entries_of_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=10_000)
    for number in range(3):
        cache.put(f"{number:064x}", torch.zeros(500))
    gone = tmp_path / f"{1:064x}{SUFFIX}"
    listed = EmbeddingCache._files

    def removed_meanwhile(self: EmbeddingCache) -> list[Path]:
        files = listed(self)
        gone.unlink(missing_ok=True)
        return files

    monkeypatch.setattr(EmbeddingCache, "_files", removed_meanwhile)
    assert EmbeddingCache(tmp_path)._bytes > 0
    for number in range(3, 9):
        gone = tmp_path / f"{number - 1:064x}{SUFFIX}"
        cache.put(f"{number:064x}", torch.zeros(500))
