"""The life of the real engine process: crashes, kills, garbage, ends, nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from SAMAutoSegLib.engine.client import EngineClient
from SAMAutoSegLib.engine.protocol import parse_event, request_line
from SAMAutoSegLib.engine.session import LOCK, PREFIX
from SAMAutoSegLib.engine.transport import engine_command, engine_environment

from .conftest import Driver, Files, tiny_command
from .pipe_transport import PipeTransport

ENGINE = tiny_command("SAMAutoSegLib.engine")

needs_posix = pytest.mark.skipif(os.name == "nt", reason="asks the system as POSIX does")


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


@needs_posix
def test_a_killed_process_is_replaced_and_the_volumes_are_open_again(
    own_engine: Driver, files: Files
) -> None:
    engine = own_engine
    volume = engine.result("open_volume", **files.opening())["volume"]
    _, answers = engine.send("segment", **files.segmenting(volume))
    engine.pump_until(lambda: bool(answers.slices))
    assert engine.client.pid is not None
    os.kill(engine.client.pid, signal.SIGKILL)
    engine.pump_until(lambda: answers.ended)
    assert answers.error is not None and "slices that were finished are kept" in answers.error[0]
    assert engine.client.state == "failed"
    labels = engine.result("segment", **files.segmenting(volume))["labels"]
    assert np.array_equal(labels, files.labels)


def test_garbage_on_the_line_disturbs_nobody(
    own_engine: Driver, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_NOISE", "1")
    engine = own_engine
    engine.client.start()
    for line in ("garbage", "{}", '{"v": 1, "id": 77, "do": "fly"}', "[" * 2_000_000, "é\x00"):
        engine.transport.write(line)
    assert engine.result("devices")["chosen"]
    said = "\n".join(engine.logged)
    assert "no JSON: 'garbage'" in said and "more than 1048576 characters" in said
    volume = engine.result("open_volume", **files.opening())["volume"]
    before = len(engine.logged)
    engine.result("segment", **files.segmenting(volume, slices=[1]))
    assert len(engine.logged) == before  # what it prints does not come through any more


def test_a_request_of_another_version_is_answered(own_engine: Driver) -> None:
    engine = own_engine
    engine.result("devices")
    engine.transport.write('{"v": 99, "id": 1000, "do": "devices"}')
    told: list[str] = []
    engine.transport.on_line = told.append
    engine.pump_until(lambda: bool(told))
    event = parse_event(told[0])
    assert (event.id, event.name) == (1000, "error") and "do not fit" in event.fields["message"]


def test_without_pytorch_the_reason_is_told() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import runpy; "
        "runpy.run_module('SAMAutoSegLib.engine', run_name='__main__')"
    )
    driver = Driver()
    driver.client = EngineClient(lambda: PipeTransport([sys.executable, "-c", code]))
    told = driver.refusal("devices")
    assert "PyTorch or another package cannot be loaded" in told and "install it" in told
    assert driver.client.state == "failed"
    driver.client.stop()


def test_a_program_that_does_not_exist_is_told() -> None:
    driver = Driver()
    driver.client = EngineClient(lambda: PipeTransport(engine_command("/no/such/python")))
    assert "cannot start /no/such/python" in driver.refusal("devices")
    driver.client.stop()


@needs_posix
def test_a_full_disk_is_told_before_the_work_and_the_engine_lives_on(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_FILE_BYTES", "10000")
    driver = Driver()
    volume = driver.result("open_volume", **files.opening())["volume"]
    answers = driver.ask("segment", **files.segmenting(volume))
    assert answers.error is not None and "free some space" in answers.error[0]
    assert not answers.slices and "Traceback" in answers.error[1]
    driver.result("click", **files.clicking(volume, points=[[1, 1, 1]]))
    folder = driver.client.folder
    assert {path.name for path in folder.iterdir()} >= {LOCK} and len(list(folder.iterdir())) == 2
    driver.client.stop()


@needs_posix
def test_the_process_ends_when_its_client_is_killed(files: Files, tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.append({str(Path(__file__).parent)!r})
from pipe_transport import PipeTransport
from SAMAutoSegLib.engine.client import EngineClient
client = EngineClient(lambda: PipeTransport({ENGINE!r}))
client.start()
while client.pid is None:
    client.transport.pump(0.05)
print(client.pid, flush=True)
time.sleep(600)
"""
    environment = {**os.environ, **engine_environment(), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid) and len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not is_alive(pid)), "the engine outlives its client"
    assert until(lambda: list(tmp_path.glob(f"{PREFIX}*")) == [])


@needs_posix
def test_the_process_ends_even_if_a_launcher_holds_the_line_open(
    files: Files, tmp_path: Path
) -> None:
    folder = tmp_path / f"{PREFIX}test"
    folder.mkdir()
    hold = (
        "import sys, time; from pathlib import Path; "
        "from SAMAutoSegLib.engine.lock import FileLock; "
        "lock = FileLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(600)"
    )
    environment = {**os.environ, **engine_environment()}
    owner = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / LOCK)], stdout=subprocess.PIPE, env=environment
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"True\n"
    engine = subprocess.Popen(
        ENGINE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert engine.stdin is not None and engine.stdout is not None
    engine.stdin.write(request_line(1, "hello", {"folder": str(folder)}).encode() + b"\n")
    engine.stdin.flush()
    assert parse_event(engine.stdout.readline().decode()).name == "result"
    owner.kill()
    owner.wait()
    assert engine.wait(60) == 0 and not folder.exists()
    for stream in (owner.stdout, engine.stdin, engine.stdout):
        stream.close()


def test_stopping_in_the_middle_of_the_work_is_quick(files: Files) -> None:
    driver = Driver()
    volume = driver.result("open_volume", **files.opening())["volume"]
    _, answers = driver.send("segment", **files.segmenting(volume))
    driver.pump_until(lambda: bool(answers.progress))
    folder, transport = driver.client.folder, driver.transport
    started = time.monotonic()
    driver.client.stop(2.0)
    assert time.monotonic() - started < 10
    assert answers.cancelled == {} and not transport.running and not folder.exists()


@needs_posix
def test_rounds_of_start_cancel_and_stop_leave_nothing_behind(files: Files) -> None:
    """SAMAUTOSEG_ROUNDS=50 makes as many; two are made otherwise."""
    rounds = int(os.environ.get("SAMAUTOSEG_ROUNDS", "2"))
    pids, memory = [], []
    gc.collect()
    before = _left_behind()
    for _ in range(rounds):
        driver = Driver()
        volume = driver.result("open_volume", **files.opening())["volume"]
        assert driver.client.pid is not None
        pids.append(driver.client.pid)
        pending, answers = driver.send("segment", **files.segmenting(volume))
        driver.pump_until(lambda answers=answers: bool(answers.progress))  # type: ignore[misc]
        pending.cancel()
        driver.pump_until(lambda answers=answers: answers.ended)  # type: ignore[misc]
        driver.client.stop()
        del driver, pending, answers
        gc.collect()
        memory.append(_memory())
    assert until(lambda: not any(is_alive(pid) for pid in pids), 10)
    assert _left_behind() == before
    # After the first rounds, which load what is loaded once.
    assert memory[-1] - memory[len(memory) // 2] < 4_000_000


def _left_behind() -> tuple[int, int, list[Path]]:
    """Threads, open files and session folders."""
    opened = Path("/proc/self/fd")
    files = len(list(opened.iterdir())) if opened.exists() else 0
    sessions = sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    return threading.active_count(), files, sessions


def _memory() -> int:
    """Bytes that this process has in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
