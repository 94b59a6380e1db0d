import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from SAMAutoSegLib import files
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, require_writable, sha256_of_file

POSIX_USER = sys.platform != "win32" and os.geteuid() != 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_complete_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out.seg.nrrd"
    target.write_text("old")
    with replace_when_complete(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.name.endswith("out.seg.nrrd")
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert names(tmp_path) == ["out.seg.nrrd"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_in_the_middle_keeps_the_old_file(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    target = tmp_path / "model.safetensors"
    target.write_text("old")
    with pytest.raises(failure), replace_when_complete(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["model.safetensors"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with replace_when_complete(tmp_path / "a" / "b" / "c.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}"


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="it is a folder"), replace_when_complete(tmp_path):
        pass
    with pytest.raises(SAMAutoSegError, match="it is a folder"):
        require_writable(tmp_path)


def test_a_file_in_place_of_the_folder_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out.nii.gz"
    with pytest.raises(SAMAutoSegError, match=r"cannot write .*out\.nii\.gz"):
        require_writable(target)
    with (
        pytest.raises(SAMAutoSegError, match=r"cannot write .*out\.nii\.gz"),
        replace_when_complete(target),
    ):
        pass


@pytest.mark.skipif(not POSIX_USER, reason="permissions do not bind this user")
def test_a_folder_without_permission_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SAMAutoSegError, match="Permission denied; choose a folder"):
        require_writable(tmp_path / "out.nii.gz")


def test_checking_for_writability_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.nii.gz").write_text("old")
    require_writable(tmp_path / "out.nii.gz")
    assert (tmp_path / "out.nii.gz").read_text() == "old"
    assert names(tmp_path) == ["out.nii.gz"]


def test_folders_that_were_made_to_check_are_removed(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "out.nii.gz")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SAMAutoSegError, match="cannot write"):
        require_writable(tmp_path / "file" / "b" / "out.nii.gz")
    assert names(tmp_path) == ["file"]


def test_a_name_that_is_too_long_asks_for_a_shorter_one(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="File name too long; choose a shorter name"):
        require_writable(tmp_path / f"{'x' * 250}.nrrd")


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_when_complete(tmp_path / "out"):
        (tmp_path / "input").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_disk_that_fills_up_in_the_middle_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    program = """
import resource, signal, sys
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with replace_when_complete(sys.argv[1]) as temporary:
        temporary.write_bytes(bytes(200_000))
except SAMAutoSegError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(target)]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "out.bin: File too large; free some space" in done.stdout
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_a_library_error_that_quotes_the_system_is_explained(tmp_path: Path) -> None:
    quoted = f"while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"
    with (
        pytest.raises(SAMAutoSegError, match="cannot write .*out: the disk is full"),
        replace_when_complete(tmp_path / "out"),
    ):
        raise RuntimeError(quoted)


def test_a_library_error_on_a_full_disk_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: Usage)
    with (
        pytest.raises(SAMAutoSegError, match="the disk is full"),
        replace_when_complete(tmp_path / "out"),
    ):
        raise RuntimeError("ITK ERROR: unspecific")


def test_the_checksum_of_a_file_is_sha256(tmp_path: Path) -> None:
    content = bytes(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_checksum_of_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SAMAutoSegError, match="cannot read .*nothing: .*; check the path"):
        sha256_of_file(tmp_path / "nothing")


def test_the_users_folders_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "d"))
    assert files.user_cache_dir() == tmp_path / "c"
    assert files.user_data_dir() == tmp_path / "d"
    monkeypatch.delenv("SAMAUTOSEG_CACHE")
    assert files.user_cache_dir().is_absolute()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="a rule of other systems")
def test_the_users_folders_are_those_of_the_desktop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SAMAUTOSEG_CACHE", "SAMAUTOSEG_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert files.user_cache_dir() == tmp_path / ".cache" / "SAMAutoSeg"
    assert files.user_data_dir() == tmp_path / "elsewhere" / "SAMAutoSeg"


def windows_error(number: int) -> OSError:
    error = PermissionError(13, "Access is denied")
    error.winerror = number  # type: ignore[attr-defined]
    return error


def test_a_file_that_windows_has_in_use_for_a_moment_is_replaced_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refusals = os.replace, [windows_error(5), windows_error(32)]

    def busy(source: Path, target: Path) -> None:
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with replace_when_complete(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "out").read_text() == "new" and not refusals


def test_a_file_that_stays_in_use_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(source: Path, target: Path) -> None:
        raise windows_error(5)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(files, "_SECONDS_IN_USE", 0.1)
    with pytest.raises(PermissionError), replace_when_complete(tmp_path / "out") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == []


def test_two_names_of_one_file_are_not_apart(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_text("")
    os.link(tmp_path / "scan.nii", tmp_path / "Scan.nii")  # as on a disk that ignores case
    with pytest.raises(SAMAutoSegError, match=r"cannot write .*Scan.nii: it is read by this"):
        files.require_apart([tmp_path / "Scan.nii"], [tmp_path / "scan.nii"])
