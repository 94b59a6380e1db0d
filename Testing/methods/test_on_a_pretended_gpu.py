import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).with_name("on_a_pretended_gpu.py")


def test_everything_computes_on_a_gpu() -> None:
    # In a process of its own: torch keeps a device that was registered until it ends.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout or "skipped" in run.stdout
