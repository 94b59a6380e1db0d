"""A file that is wanted on this computer, and the check that it is the right one."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, sha256_of_file

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class WantedFile:
    """A file that is wanted on this computer.

    Attributes:
        target: where it shall lie.
        sha256: its SHA-256, 64 lower-case hexadecimal digits.
        size: its length in bytes where that is known.
    """

    target: Path
    sha256: str
    size: int | None = None

    def is_there(self) -> bool:
        """Whether the right file lies at the target already."""
        if not self.target.is_file():
            return False
        if self.size is not None and self.target.stat().st_size != self.size:
            return False
        return sha256_of_file(self.target) == self.sha256

    def copy_from(self, stream: IO[bytes], origin: str) -> None:
        """Write the target from an open file, whole and checked, or leave it as it was.

        Args:
            origin: where the bytes come from, for the error.

        Raises:
            SAMAutoSegError: the bytes are not the wanted ones, or the target is not writable.
        """
        digest = hashlib.sha256()
        with replace_when_complete(self.target) as temporary:
            with temporary.open("wb") as output:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
                    output.write(block)
            if digest.hexdigest() != self.sha256:
                raise wrong_checksum(origin, digest.hexdigest(), self.sha256)


def wrong_checksum(origin: str, found: str, expected: str) -> SAMAutoSegError:
    """The error for bytes that are not the wanted ones."""
    return SAMAutoSegError(
        f"{origin}: wrong checksum (SHA-256 {found[:12]}… instead of {expected[:12]}…), so it was"
        " not kept; it was damaged on the way or is another version: try again or get the file"
        " elsewhere"
    )
