"""An error in words for the user, and in details for who mends it."""

from __future__ import annotations

import traceback
from contextlib import suppress

from SAMAutoSegLib.errors import SAMAutoSegError


def explain(error: BaseException) -> tuple[str, str]:
    """One line that says what to do, and the traceback."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, SAMAutoSegError):
        return str(error), details
    if ran_out_of_memory(error):
        return (
            "not enough memory: close other programs, or take a smaller model or region",
            details,
        )
    first_line = (str(error).splitlines() or [""])[0]
    return (
        f"something went wrong inside the program ({type(error).__name__}: {first_line}): try "
        "again, and report the details if it happens again",
        details,
    )


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, was a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        with suppress(ImportError):  # it may be about PyTorch itself
            from SAMAutoSegLib.device import is_out_of_memory

            if is_out_of_memory(error):
                return True
        error = error.__cause__
    return False
