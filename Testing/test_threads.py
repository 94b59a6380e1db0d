"""Whatever computes waits asleep, and what the user asked for stays."""

import os
import subprocess
import sys

import pytest

from SAMAutoSegLib.threads import let_waiting_threads_sleep

PROGRAMS = ["SAMAutoSegLib.cli.main", "SAMAutoSegLib.engine.__main__"]
PROGRAMS += ["SAMAutoSegLib.engine.job_process"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_can_still_say_how_threads_wait_before_torch_is_there(program: str) -> None:
    code = f"""
import sys, importlib
program = importlib.import_module({program!r})
assert "torch" not in sys.modules
calls = []
program.let_waiting_threads_sleep = lambda: calls.append("torch" in sys.modules) or sys.exit()
try:
    program.main(*{[] if program.endswith("__main__") else [["none"]]!r})
finally:
    print(calls)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.strip() == "[False]", told.stderr


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_environment_says_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, "77")
    let_waiting_threads_sleep()
    assert os.environ[name] == "77"
    monkeypatch.delenv(name)
    let_waiting_threads_sleep()
    assert int(os.environ[name]) < 2000


def test_whoever_sets_the_policy_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    let_waiting_threads_sleep()
    assert "GOMP_SPINCOUNT" not in os.environ
