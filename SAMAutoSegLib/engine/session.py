"""The folder of one session: made private, removed at its end, also after a crash."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from SAMAutoSegLib.engine.lock import FileLock, is_locked
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import write_errors_named

PREFIX = "SAMAutoSeg-session-"
LOCK = "lock"

# A session that is just being made has no lock yet.
_SECONDS_TO_LOCK = 60.0


class Session:
    """A folder that lives as long as the process that made it.

    Attributes:
        folder: readable by this user only.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Make the folder in `root` (by default the system's temporary one).

        Folders of sessions whose process is gone are removed first.

        Raises:
            SAMAutoSegError: it cannot be made.
        """
        root = Path(tempfile.gettempdir()) if root is None else root
        remove_stale_sessions(root)
        with write_errors_named(root):
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root)).resolve()
        self._lock = FileLock(self.folder / LOCK)
        self._lock.acquire()

    def clear(self, keep: set[str]) -> None:
        """Remove all files but those of these paths."""
        for path in self.folder.iterdir():
            if path.name != LOCK and str(path) not in keep:
                with suppress(OSError):  # in use for a moment, as Windows has it
                    path.unlink()

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_stale_sessions(root: Path) -> None:
    """Remove the folders of sessions whose process is gone; those of other users stay."""
    for folder in root.glob(f"{PREFIX}*"):
        try:
            young = time.time() - folder.stat().st_mtime < _SECONDS_TO_LOCK
            if young or is_locked(folder / LOCK):
                continue
        except (OSError, SAMAutoSegError):  # another user's, or gone by now
            continue
        shutil.rmtree(folder, ignore_errors=True)
