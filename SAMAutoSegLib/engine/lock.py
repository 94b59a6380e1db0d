"""A lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import write_errors_named


class FileLock:
    """The lock on a file, which is made if need be.

    The system frees it when the process dies. Asking whether it can be had tells therefore, unlike
    a process number, which may belong to another process by now, whether a process still lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another holds it (another object in this process counts).

        Raises:
            SAMAutoSegError: the file cannot be made, or its disk knows no locks.
        """
        with write_errors_named(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            os.close(descriptor)
            return False
        except OSError as error:
            os.close(descriptor)
            raise SAMAutoSegError(
                f"cannot lock {self.path} ({error.strerror}): choose a folder on a disk of this "
                "computer"
            ) from error
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Free the lock, if it is held; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.acquire()
    finally:
        lock.release()


# Tested on the platform's name itself, which type checkers follow.
if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # Not `lockf`, whose locks all objects of a process share.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
