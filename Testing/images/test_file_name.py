"""Names of files that are no UTF-8, as archives of another system leave them."""

import os
import sys
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.volume import Volume
from SAMAutoSegLib.images.write import require_known_format, write_volume

pytestmark = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="there all names of files are Unicode"
)

SAID = "the name of the file or of a folder is not valid UTF-8: rename it"


def name(text: bytes) -> str:
    return os.fsdecode(text)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_an_image_of_such_a_name_is_refused(tmp_path: Path, volume: Volume, read: object) -> None:
    write_volume(tmp_path / "x.nrrd", volume)
    path = tmp_path / name(b"caf\xe9.nrrd")
    (tmp_path / "x.nrrd").rename(path)
    with pytest.raises(SAMAutoSegError, match=SAID) as caught:
        read(path)  # type: ignore[operator]
    str(caught.value).encode()  # can be shown anywhere


@pytest.mark.parametrize("renamed", ["the folder", "a file"])
def test_a_series_with_such_a_name_is_refused(
    tmp_path: Path, write_series: object, renamed: str
) -> None:
    write_series(tmp_path / "scan", [0.0, 2.0])  # type: ignore[operator]
    folder = tmp_path / "scan"
    if renamed == "a file":
        file = min(folder.iterdir())
        file.rename(folder / name(b"caf\xe9.dcm"))
    else:
        folder = folder.rename(tmp_path / name(b"caf\xe9"))
    with pytest.raises(SAMAutoSegError, match=SAID):
        read_image(folder)


def test_a_note_of_such_a_name_beside_a_series_does_not_matter(
    tmp_path: Path, write_series: object
) -> None:
    write_series(tmp_path, [0.0, 2.0])  # type: ignore[operator]
    (tmp_path / name(b"caf\xe9.txt")).write_text("notes")
    assert len(read_image(tmp_path).array) == 2


def test_nothing_is_written_under_such_a_name(tmp_path: Path, volume: Volume) -> None:
    path = tmp_path / name(b"caf\xe9") / "x.nrrd"
    with pytest.raises(SAMAutoSegError, match=SAID):
        require_known_format(path)
    with pytest.raises(SAMAutoSegError, match=SAID):
        write_volume(path, volume)
    assert not list(tmp_path.iterdir())
