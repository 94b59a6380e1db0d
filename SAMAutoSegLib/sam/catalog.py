"""The models that can be fetched by name: where from, how large, under which license."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import user_data_dir
from SAMAutoSegLib.resources import resource
from SAMAutoSegLib.sam.input_spec import Normalization

SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of weights files."""


@dataclass(frozen=True)
class CatalogEntry:
    """One entry of `Resources/ModelCatalog.json`, described by `ModelCatalog-schema.json`.

    Attributes:
        name: what the user types.
        title: one line for lists.
        family: 'vit_b', 'vit_l', 'vit_h' or 'vit_t'.
        side: input side in pixels the model was trained with.
        normalization: how its training fed the images, see `InputSpec`.
        license: SPDX name.
        file_name: name of the file on this machine.
        bytes: size of the file.
        sha256: of the file; None where no public source states it. Such a file is checked by
            its tensors, and the user is warned.
        url: official address, or None for a file inside a package.
        pypi: requirement ('name==version') of the package that holds the file, or None.
        member: path of the file inside the package, or None.
        homepage: where the model is described.
        takes_points: False where it was trained with boxes only: a point finds next to nothing.
    """

    name: str
    title: str
    family: str
    side: int
    normalization: Normalization
    license: str
    file_name: str
    bytes: int
    sha256: str | None
    url: str | None
    pypi: str | None
    member: str | None
    homepage: str
    takes_points: bool = True

    @property
    def local_path(self) -> Path:
        """Where the fetched file lies: the folder `models` of the user's data folder."""
        return user_data_dir() / "models" / self.file_name


@functools.cache
def entries() -> tuple[CatalogEntry, ...]:
    """All models of the catalogue, the default one first."""
    models = json.loads(resource("ModelCatalog.json").read_text(encoding="utf-8"))["models"]
    return tuple(_entry(values) for values in models)


def find(name: str) -> CatalogEntry | None:
    """The entry called `name`, None where there is none."""
    return next((entry for entry in entries() if entry.name == name), None)


def get(name: str) -> CatalogEntry:
    """The entry called `name`.

    Raises:
        SAMAutoSegError: the catalogue has none.
    """
    entry = find(name)
    if entry is None:
        known = ", ".join(entry.name for entry in entries())
        raise SAMAutoSegError(f"model {name!r}: the catalogue has {known}")
    return entry


def find_by_sha256(digest: str) -> CatalogEntry | None:
    """The entry whose file has this SHA-256, None where there is none."""
    return next((entry for entry in entries() if entry.sha256 == digest), None)


def file_of(source: str | os.PathLike[str]) -> tuple[Path, CatalogEntry | None]:
    """What a path, the name of an entry, or that of a file in the model folder stands for.

    Returns:
        The file, which need not be there, and the entry if it is one's.
    """
    path = Path(source)
    if path.is_file():
        return path, None
    entry = find(str(source))
    if entry is not None:
        return entry.local_path, entry
    own = [file for file in own_files() if str(source) in (file.name, file.stem)]
    return (own[0] if own else path), None


def own_files() -> list[Path]:
    """The weights files in the model folder that are of no entry."""
    folder = user_data_dir() / "models"
    listed = {entry.file_name for entry in entries()}
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix in SUFFIXES and path.name not in listed]


def _entry(values: dict[str, Any]) -> CatalogEntry:
    source = values.pop("source")
    fields: dict[str, Any] = {"url": None, "pypi": None, "member": None, **values, **source}
    return CatalogEntry(**fields)
