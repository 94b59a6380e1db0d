"""The command ``samautoseg``: reads the arguments, runs a command, tells errors in one line."""

import argparse
import importlib
import io
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from SAMAutoSegLib import __version__
from SAMAutoSegLib.cli.output import give_up_output, open_closed_streams, told_output
from SAMAutoSegLib.errors import Cancelled, SAMAutoSegError
from SAMAutoSegLib.progress import remembered_interrupts
from SAMAutoSegLib.threads import let_waiting_threads_sleep

_COMMANDS = {
    "segment": "segment an image with an adapted model",
    "finetune": "teach a model on a few labeled slices",
    "evaluate": "score a segmentation against a reference",
    "models": "list, inspect, fetch and remove models",
    "convert": "take over a model of BLO-SAM, MetaTune or SAMed",
    "sample": "fetch a public CT to try the others on",
    "demo": "run the whole loop on a public CT",
}

_DEBUG = "--debug"

_NOTHING_HALF = "interrupted; nothing half-written was kept, files completed before stay"

_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: without the name of the program; those of the process by default.

    Returns:
        0 on success, 1 on a fault of the program, 2 on an error that the user can mend, 130 when
        cancelled.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    let_waiting_threads_sleep()
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A console of another encoding shall not stop a run over a letter of a structure's name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    debug = _DEBUG in given  # anywhere, also behind a command
    given = [argument for argument in given if argument != _DEBUG]
    with remembered_interrupts() as interrupted:
        try:
            with told_output():
                parsed = _parser(given).parse_args(given or ["--help"])
                return int(parsed.run(parsed))
        except Cancelled as error:
            return _tell(str(error), _INTERRUPTED, debug)
        except SAMAutoSegError as error:
            return _tell(f"error: {error}", _USER_ERROR, debug)
        except KeyboardInterrupt:
            return _tell(_NOTHING_HALF, _INTERRUPTED, debug)
        except BrokenPipeError:
            # The reader of the output has gone, as in "samautoseg ... | head".
            give_up_output()
            return _FAILED
        except Exception as error:
            if interrupted.is_set():  # modules that are being imported make other errors of it
                return _tell(_NOTHING_HALF, _INTERRUPTED, debug)
            if isinstance(error, OSError) and error.filename is not None:
                what = f"error: cannot access {error.filename}: {error.strerror or error}"
                return _tell(what, _USER_ERROR, debug)
            first_line = (str(error).splitlines() or [""])[0]
            what = f"error: unexpected {type(error).__name__}: {first_line}"
            return _tell(f"{what} (run again with --debug to see where)", _FAILED, debug)


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USER_ERROR, f"samautoseg: error: {message} (see {self.prog} --help)\n")


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="samautoseg",
        description="Adapt Segment Anything to medical volumes from a few corrected slices.",
    )
    parser.add_argument(_DEBUG, action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"samautoseg {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in given:  # help and version need none of them
            module = importlib.import_module(f"SAMAutoSegLib.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _tell(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"samautoseg: {message}", file=sys.stderr)
    return status
