import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from SAMAutoSegLib.engine.lock import FileLock, is_locked
from SAMAutoSegLib.engine.session import LOCK, PREFIX, Session, remove_stale_sessions
from SAMAutoSegLib.engine.transport import engine_environment

HOLD = """
import sys, time
from pathlib import Path
from SAMAutoSegLib.engine.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def holder(path: Path) -> subprocess.Popen[bytes]:
    """Another process that holds a lock until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, **engine_environment()},
    )
    assert process.stdout is not None and process.stdout.readline().strip() == b"held"
    process.stdout.close()
    return process


def aged(folder: Path) -> Path:
    os.utime(folder, (time.time() - 3600,) * 2)
    return folder


def test_a_lock_is_held_once_and_can_be_had_again(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    assert one.acquire() and not other.acquire() and is_locked(tmp_path / "lock")
    one.release()
    assert other.acquire()
    other.release()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock")
    assert is_locked(tmp_path / "lock")
    process.kill()
    process.wait()
    assert not is_locked(tmp_path / "lock")


@pytest.mark.skipif(os.name == "nt", reason="other permissions there")
def test_the_folder_of_a_session_is_for_its_user_only(tmp_path: Path) -> None:
    session = Session(tmp_path)
    assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
    session.close()
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_cleared_but_for_what_is_named(tmp_path: Path) -> None:
    session = Session(tmp_path)
    kept, other = session.folder / "kept.array", session.folder / "other.array"
    kept.touch(), other.touch()
    session.clear({str(kept)})
    assert kept.exists() and not other.exists() and is_locked(session.folder / LOCK)
    session.close()


def test_folders_of_processes_that_are_gone_are_removed_at_the_next_start(tmp_path: Path) -> None:
    gone, living, young = (tmp_path / f"{PREFIX}{name}" for name in ("gone", "living", "young"))
    for folder in (gone, living, young):
        folder.mkdir()
        (folder / "volume.array").touch()
    (tmp_path / "other").mkdir()
    dead = holder(gone / LOCK)
    dead.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    dead.wait()
    alive = holder(living / LOCK)
    for folder in (gone, living, tmp_path / "other"):
        aged(folder)
    remove_stale_sessions(tmp_path)
    alive.kill()
    alive.wait()
    assert {path.name for path in tmp_path.iterdir()} == {living.name, young.name, "other"}
    session = Session(tmp_path)
    assert not living.exists() and session.folder.exists()
    session.close()
