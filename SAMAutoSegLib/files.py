"""Files that are written whole or not at all, and the folders that belong to this program."""

import errno
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError

# Failures of the disk itself: they name no file, or one that says nothing to the user.
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", -1)}

# The libraries that write images and tensors report a full disk as an error of their own, with
# the system's words in it (112 is its number on Windows) or without any. Then a disk with less
# than this is full.
_FULL_DISK = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_FULL_DISK_WORDS = (*(os.strerror(number) for number in _FULL_DISK), "(os error 112)")
_FULL_DISK_BYTES = 1 << 20

# Of Windows: access denied, sharing violation, lock violation.
_IN_USE = (5, 32, 33)
_SECONDS_IN_USE = 2.0

# Of Windows: no valid name, and a name that is too long.
_NO_NAME = (123, 206)

_NAME = "SAMAutoSeg"


@contextmanager
def replace_when_complete(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the place of ``path`` on success.

    The temporary name ends like ``path``, so that writers choosing a format by suffix choose
    the same one. Missing parent folders are made. When the body raises, the temporary file is
    removed and whatever stood at ``path`` stays untouched.

    Raises:
        SAMAutoSegError: the folder is not writable, or the disk is full.
    """
    target = Path(path)
    temporary = _temporary_beside(target)
    try:
        with write_errors_named(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            replace_file(temporary, target)
    except BaseException:
        with suppress(OSError):  # the error on its way says more than one of the clean-up
            temporary.unlink()
        raise


def replace_file(source: Path, target: Path) -> None:
    """`os.replace`, tried again for a moment where Windows has one of the files in use.

    Virus scanners and indexers open a file just after it was written.

    Raises:
        OSError: as `os.replace`.
    """
    deadline = time.monotonic() + _SECONDS_IN_USE
    while True:
        try:
            os.replace(source, target)
            return
        except OSError as error:
            in_use = getattr(error, "winerror", None) in _IN_USE
            if not in_use or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before a long computation, that ``path`` can be written at its end.

    Nothing of it stays, not even the folders that will be made.

    Raises:
        SAMAutoSegError: ``path`` is a folder, or its folder cannot be made or written to.
    """
    target = Path(path)
    probe = _temporary_beside(target)
    made: list[Path] = []
    try:
        with write_errors_named(target, probe):
            made += [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
    finally:
        for folder in made:
            with suppress(OSError):  # another process may have put something there meanwhile
                folder.rmdir()


def require_apart(written: Iterable[Path | None], read: Iterable[Path | None]) -> None:
    """`SAMAutoSegError` if a file would be written over one that is read or written too."""
    taken = {_identity(path): "read" for path in read if path is not None}
    for path in (path for path in written if path is not None):
        if use := taken.get(_identity(path)):
            raise SAMAutoSegError(
                f"cannot write {path}: it is {use} by this very command; name another"
            )
        taken[_identity(path)] = "written"


def _identity(path: Path) -> object:
    """Equal for two names of one file that exists, as where the system takes a for A."""
    try:
        state = path.stat()
    except OSError:
        return path.resolve()
    return state.st_dev, state.st_ino


@contextmanager
def write_errors_named(target: Path, written: Path | None = None) -> Iterator[None]:
    """Turn a failure to write ``written`` (default ``target``) into an error naming ``target``.

    Errors about other files, about the network or in the program pass unchanged.

    Raises:
        SAMAutoSegError: no permission, disk full, read-only or broken.
    """
    try:
        yield
    except SAMAutoSegError:
        raise
    except Exception as error:
        reason = _why_not_written(error, target if written is None else written)
        if reason is None:
            raise
        raise SAMAutoSegError(f"cannot write {target}: {reason}") from error


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits.

    Raises:
        SAMAutoSegError: the file is missing or cannot be read.
    """
    source = Path(path)
    try:
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SAMAutoSegError(f"cannot read {source}: {reason}; check the path") from error


def user_cache_dir() -> Path:
    """Folder of what can be computed or downloaded again; ``SAMAUTOSEG_CACHE`` overrides it."""
    if chosen := os.environ.get("SAMAUTOSEG_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return _local_app_data() / _NAME / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _NAME
    return _xdg_dir("XDG_CACHE_HOME", ".cache") / _NAME


def user_data_dir() -> Path:
    """Folder of the user's models; ``SAMAUTOSEG_DATA`` overrides it."""
    if chosen := os.environ.get("SAMAUTOSEG_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return _local_app_data() / _NAME
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / _NAME
    return _xdg_dir("XDG_DATA_HOME", ".local/share") / _NAME


def _local_app_data() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")


def _xdg_dir(variable: str, default: str) -> Path:
    # The specification says to ignore what is not absolute.
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else Path.home() / default


def _temporary_beside(target: Path) -> Path:
    if target.is_dir():
        raise SAMAutoSegError(f"cannot write {target}: it is a folder; name a file")
    return target.with_name(f".partial-{secrets.token_hex(4)}-{target.name}")


def _why_not_written(error: Exception, written: Path) -> str | None:
    """Say in words why a write failed, or None when the error is about something else."""
    if isinstance(error, OSError):
        if error.errno in _DISK_ERRORS:
            room = "free some space or " if error.errno not in (errno.EROFS, errno.EIO) else ""
            return f"{error.strerror}; {room}choose another folder"
        # Other files may be read while this one is written: their errors are not ours.
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if named & {str(written), *map(str, written.parents)}:
            wanted = "a folder you may write to"
            if error.errno == errno.ENAMETOOLONG or getattr(error, "winerror", 0) in _NO_NAME:
                wanted = "a shorter name, or one without special characters"
            return f"{error.strerror}; choose {wanted}"
    folder = written.parent
    told = any(words in str(error) for words in _FULL_DISK_WORDS)
    if told or (folder.is_dir() and shutil.disk_usage(folder).free < _FULL_DISK_BYTES):
        return "the disk is full; free some space or choose another folder"
    return None
