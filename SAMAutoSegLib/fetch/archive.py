"""Single files out of wheels and source archives; nothing else of them is unpacked or run."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.wanted import WantedFile

SUFFIXES = (".whl", ".zip", ".tar.gz", ".tgz")

# The last one for what zipfile does not read: other compressions and passwords.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile),
    *(zlib.error, EOFError, RuntimeError),
)


def extract_members(archive: Path, wanted: Mapping[str, WantedFile]) -> list[str]:
    """Extract and check members of an archive; return the names that it does not hold.

    Args:
        wanted: by path inside the package. In a source archive the folder at the top
            (``name-version/``) does not count.

    Raises:
        SAMAutoSegError: the archive is damaged, or a member is not the wanted file.
    """
    missing = dict(wanted)
    try:
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as bundle:
                for name in [name for name in bundle.namelist() if name in wanted]:
                    with bundle.open(name) as member:
                        missing.pop(name).copy_from(member, f"{name} of {archive.name}")
        else:
            with tarfile.open(archive, "r:gz") as bundle:
                for entry in bundle:
                    name = entry.name.partition("/")[2]
                    if name in missing and (stream := bundle.extractfile(entry)) is not None:
                        missing.pop(name).copy_from(stream, f"{name} of {archive.name}")
                    if not missing:
                        break
    except _DAMAGED as error:
        raise SAMAutoSegError(
            f"{archive}: the archive is damaged ({error or 'it ends too early'}); download it again"
        ) from error
    return list(missing)
