import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from SAMAutoSegPanels.LibraryCommands import LibraryCommands

ENTRY = {"name": "lite-medsam"}


class Transport:
    """A command whose output the test writes."""

    on_line: Callable[[str], None]
    on_finished: Callable[[int, str], None]

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.killed = False

    def start(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def started() -> list[Transport]:
    return []


@pytest.fixture
def commands(started: list[Transport]) -> LibraryCommands:
    def make(command: list[str]) -> Transport:
        started.append(Transport(command))
        return started[-1]

    return LibraryCommands(make)


def test_a_sample_is_fetched_with_its_paths(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    ended: list[Any] = []
    commands.fetchSample("abdomen-ct", lambda failure, reply: ended.append((failure, reply)))
    assert started[0].command[-3:] == ["sample", "abdomen-ct", "--json"]
    started[0].on_line(json.dumps({"image": "ct.nii.gz"}))
    started[0].on_finished(0, "")
    assert ended == [("", {"image": "ct.nii.gz"})]


def test_a_download_tells_its_progress_and_its_end(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    progress: list[Any] = []
    ended: list[str] = []
    commands.onProgress = lambda fraction, message: progress.append(fraction)
    commands.fetch(ENTRY, ended.append)
    assert started[0].command[-4:] == ["models", "fetch", "lite-medsam", "--json"]
    started[0].on_line(json.dumps({"fraction": 0.5, "message": "loading"}))
    started[0].on_line(json.dumps({"lite-medsam": "/models/lite_medsam.pth"}))
    started[0].on_finished(0, "")
    assert progress == [0.0, 0.5, None] and ended == [""]
    assert not commands.running


def test_a_failure_is_the_last_line_without_the_program_s_name(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    ended: list[str] = []
    commands.fetch(ENTRY, ended.append, folder="/usb")
    assert started[0].command[-2:] == ["--from-folder", "/usb"]
    started[0].on_finished(1, "some warning\nsamautoseg: error: no internet; try again")
    assert ended == ["no internet; try again"]


def test_what_was_added_is_described(commands: LibraryCommands, started: list[Transport]) -> None:
    ended: list[Any] = []
    commands.add("/usb/x.pth", lambda failure, about: ended.append((failure, about)))
    for line in json.dumps({"path": "/models/x.pth"}, indent=1).splitlines():
        started[0].on_line(line)
    started[0].on_finished(0, "")
    assert ended == [("", {"path": "/models/x.pth"})]


def test_a_second_command_is_refused_until_the_first_has_ended(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    ended: list[str] = []
    commands.fetch(ENTRY, lambda failure: None)
    commands.fetch(ENTRY, ended.append)
    assert len(started) == 1 and "under way" in ended[0]


def test_a_cancel_ends_the_command_and_frees_the_way(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    told: list[str] = []
    commands.fetch(ENTRY, told.append)
    commands.cancel()
    assert started[0].killed and not commands.running
    assert len(told) == 1 and told[0].startswith("Cancelled")
    commands.cancel()
    assert len(told) == 1


def test_a_stop_ends_the_command_and_tells_nobody(
    commands: LibraryCommands, started: list[Transport]
) -> None:
    told: list[str] = []
    commands.fetch(ENTRY, told.append)
    commands.stop()
    assert started[0].killed and not commands.running and told == []


# Waits for what it has started, as for pip, and would wait for its own standard input.
ENDLESS = """
import os, sys, time
assert os.read(0, 1) == b""
try:
    print(sys.argv[1:], flush=True)
    while True:
        time.sleep(0.1)
finally:
    print("tidied", flush=True)
"""
LAUNCHER = """
import subprocess, sys
subprocess.Popen(sys.argv[1:]).wait()
"""


def test_a_command_ends_with_the_launcher_that_started_it(
    commands: LibraryCommands, started: list[Transport], tmp_path: Path
) -> None:
    package = tmp_path / "SAMAutoSegLib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(ENDLESS)
    commands.fetch(ENTRY, lambda failure: None)
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *started[0].command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline().strip() == b"['models', 'fetch', 'lite-medsam', '--json']"
    launcher.kill()
    # Its output has an end only once the command has ended too.
    assert launcher.communicate(timeout=30)[0].split() == [b"tidied"]
