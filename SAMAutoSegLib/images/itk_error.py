"""What SimpleITK says of a failure."""

from __future__ import annotations

import re


def reason_of(error: RuntimeError) -> str:
    """One line of SimpleITK's message, without its source files and object addresses."""
    message = re.split(r"(?:ITK ERROR|sitk::ERROR): ", str(error))[-1]
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    # Formats that name the file first tell what is wrong with it in a line of its own.
    reasons = [line for line in lines if line.startswith("Reason: ")]
    if reasons:
        return reasons[0].removeprefix("Reason: ")
    return re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", lines[-1 if lines[0].endswith(":") else 0])
