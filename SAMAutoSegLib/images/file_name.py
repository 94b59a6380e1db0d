"""Names of files that ITK can be given."""

from __future__ import annotations

import os
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError


def require_utf8(path: Path) -> None:
    """`SAMAutoSegError` for a name that is no valid UTF-8: ITK would end the whole process."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="replace")
        raise SAMAutoSegError(
            f"{shown}: the name of the file or of a folder is not valid UTF-8: rename it"
        ) from error
