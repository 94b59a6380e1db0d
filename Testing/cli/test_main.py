import os
import signal
import subprocess
import sys
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from SAMAutoSegLib import __version__
from SAMAutoSegLib.cli import main as main_module
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.progress import console_progress

ROOT = Path(__file__).parents[2]

Command = Callable[[Callable[[], int]], None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Sets what the command ``try`` does."""

    def set_action(action: Callable[[], int]) -> None:
        def add_arguments(parser: ArgumentParser) -> None:
            parser.add_argument("--number", type=int)

        def run(arguments: Namespace) -> int:
            return action()

        module = types.ModuleType("SAMAutoSegLib.cli.try")
        module.__dict__.update(add_arguments=add_arguments, run=run)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(main_module, "_COMMANDS", {"try": "try something"})

    return set_action


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def test_the_status_of_a_command_is_that_of_the_program(command: Command) -> None:
    command(lambda: 0)
    assert main(["try", "--number", "3"]) == 0


def test_an_error_of_the_user_is_one_line_without_a_traceback(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(SAMAutoSegError("slice 99 is out of range: 0 to 29")))
    assert main(["try"]) == 2
    assert capsys.readouterr().err == "samautoseg: error: slice 99 is out of range: 0 to 29\n"


@pytest.mark.parametrize("arguments", [["--debug", "try"], ["try", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(
    arguments: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(SAMAutoSegError("slice 99")))
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert told.endswith("samautoseg: error: slice 99\n")


def test_cancelling_says_what_was_kept(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(Cancelled("cancelled after 12 rounds; the best is in model.safetensors")))
    assert main(["try"]) == 130
    assert "the best is in model.safetensors" in capsys.readouterr().err


def test_an_interrupt_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(KeyboardInterrupt()))
    assert main(["try"]) == 130
    told = capsys.readouterr().err
    assert told.startswith("samautoseg: interrupted; nothing half-written was kept")
    assert told.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to this process")
@pytest.mark.parametrize("then", ["another error", "nothing"])
def test_an_interrupt_that_an_import_swallows_ends_the_command_all_the_same(
    command: Command, capsys: pytest.CaptureFixture[str], then: str
) -> None:
    def action() -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            if then == "another error":
                raise AttributeError("half imported") from None
        with console_progress():
            return 0

    before = signal.getsignal(signal.SIGINT)
    command(action)
    assert main(["try"]) == 130
    told = capsys.readouterr().err
    assert told.startswith("samautoseg: interrupted") and told.count("\n") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_fault_of_the_program_is_one_line_that_asks_for_debug(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(ZeroDivisionError("division by zero\nmore")))
    assert main(["try"]) == 1
    told = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: division by zero (run again with --debug" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--json"], ["unknown"], ["try", "--number", "x"]])
def test_wrong_arguments_end_with_status_2(
    arguments: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda: 0)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--help)" in told


def test_version_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"samautoseg {__version__}\n"


@pytest.mark.parametrize("arguments", ["['--help']", "['models', '--help']"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    program = f"""
import sys
from SAMAutoSegLib.cli.main import main
try:
    main({arguments})
except SystemExit:
    pass
heavy = {{"torch", "numpy", "SimpleITK", "monai", "matplotlib", "tqdm"}} & sys.modules.keys()
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_the_help_of_every_command_can_be_shown() -> None:
    for name in main_module._COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a closed pipe otherwise")
def test_output_into_a_closed_pipe_says_nothing() -> None:
    command = [sys.executable, "-m", "SAMAutoSegLib", "--help"]
    pipe = subprocess.PIPE
    # Without a buffer argparse itself would swallow the error.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, cwd=ROOT, env=buffered, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_does_not_fail_what_is_done(closed: str) -> None:
    command = f'"{sys.executable}" -m SAMAutoSegLib models list {closed}'
    assert subprocess.run(command, shell=True, cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_an_output_that_cannot_be_written_is_told() -> None:
    command = f'"{sys.executable}" -m SAMAutoSegLib models list --json > /dev/full'
    done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    said = "samautoseg: error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_file_that_cannot_be_accessed_is_named(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(PermissionError(13, "Permission denied", "models/x.pth")))
    assert main(["try"]) == 2
    told = capsys.readouterr().err
    assert told == "samautoseg: error: cannot access models/x.pth: Permission denied\n"
    command(raising(OSError(5, "Input/output error")))
    assert main(["try"]) == 1


def test_the_bare_command_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    printed = capsys.readouterr()
    assert ended.value.code == 0 and not printed.err
    assert "segment an image with an adapted model" in printed.out
