"""Downloads by the real pip from a folder on this machine; no index is asked."""

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.fetch.package import fetch_from_package
from SAMAutoSegLib.fetch.wanted import WantedFile

CONTENT = b"a real file"
ABOUT = "Metadata-Version: 2.1\nName: Some-Package\nVersion: 1.0\n"
MEMBER = "some_package/data/file.bin"


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place pip looks at."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, WantedFile]:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return {MEMBER: WantedFile(tmp_path / "data" / "file.bin", digest, len(CONTENT))}


def add_wheel(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / "some_package-1.0-py3-none-any.whl", "w") as bundle:
        bundle.writestr(MEMBER, CONTENT)
        about = "some_package-1.0.dist-info"
        bundle.writestr(f"{about}/METADATA", ABOUT + "Requires-Dist: torch\n")
        bundle.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        bundle.writestr(f"{about}/RECORD", "")


def add_source_archive(shelf: Path, marker: Path) -> None:
    setup = f"open({str(marker)!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode()
    files = {"setup.py": setup, "PKG-INFO": ABOUT.encode(), MEMBER: CONTENT}
    with tarfile.open(shelf / "some_package-1.0.tar.gz", "w:gz") as bundle:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"some_package-1.0/{name}")
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))


def test_a_file_comes_out_of_a_wheel_and_nothing_else_stays(
    shelf: Path, wanted: dict[str, WantedFile], tmp_path: Path
) -> None:
    add_wheel(shelf)
    fetch_from_package("some-package==1.0", wanted)
    assert wanted[MEMBER].target.read_bytes() == CONTENT
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_there_is_not_downloaded(wanted: dict[str, WantedFile]) -> None:
    wanted[MEMBER].target.parent.mkdir()
    wanted[MEMBER].target.write_bytes(CONTENT)
    fetch_from_package("some-package==1.0", wanted)  # the shelf is empty


def test_a_file_comes_out_of_a_source_archive_and_nothing_of_the_archive_is_run(
    shelf: Path, wanted: dict[str, WantedFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the package wheel is there, older versions of pip would run setup.py by themselves.
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wheel.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    marker = tmp_path / "setup.py was run"
    add_source_archive(shelf, marker)
    fetch_from_package("some-package==1.0", wanted, archive="sdist")
    assert wanted[MEMBER].target.read_bytes() == CONTENT
    assert not marker.exists()


def test_a_version_that_does_not_exist_is_named(
    shelf: Path, wanted: dict[str, WantedFile], tmp_path: Path
) -> None:
    add_wheel(shelf)
    with pytest.raises(SAMAutoSegError, match="cannot download some-package==2.0: No matching"):
        fetch_from_package("some-package==2.0", wanted)
    assert not wanted[MEMBER].target.exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_is_said_with_the_way_out(
    wanted: dict[str, WantedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(SAMAutoSegError, match="index cannot be reached or.*--from-folder"):
        fetch_from_package("some-package==1.0", wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for pip is a shell script")
def test_cancelling_ends_pip_and_leaves_nothing(
    wanted: dict[str, WantedFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = tmp_path / "running"
    script = tmp_path / "python-that-takes-long"
    tell = f'echo $$ > "{running}.new"; mv "{running}.new" "{running}"'
    script.write_text(f"#!/bin/sh\n{tell}\nsleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))

    def cancel_when_running(fraction: float, message: str) -> None:
        if running.exists():
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        fetch_from_package("some-package==1.0", wanted, progress=cancel_when_running)
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not wanted[MEMBER].target.exists()


def test_a_package_without_the_file_is_named(shelf: Path, tmp_path: Path) -> None:
    add_wheel(shelf)
    wanted = {"some_package/other.bin": WantedFile(tmp_path / "other.bin", "0" * 64)}
    with pytest.raises(SAMAutoSegError, match="does not hold some_package/other.bin"):
        fetch_from_package("some-package==1.0", wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_inside_slicer_its_own_python_runs_pip(
    shelf: Path,
    wanted: dict[str, WantedFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_wheel(shelf)
    folder = tmp_path / "Slicer"
    folder.mkdir()
    script = folder / "PythonSlicer"
    script.write_text(f'#!/bin/sh\ntouch "{folder}/used"\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", "")
    fetch_from_package("some-package==1.0", wanted)
    assert (folder / "used").exists()
    assert wanted[MEMBER].target.read_bytes() == CONTENT


def test_a_cache_that_may_not_be_written_is_named(
    wanted: dict[str, WantedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(SAMAutoSegError, match="cannot write .*cache.*: Permission denied; choose"):
        fetch_from_package("some-package==1.0", wanted)
