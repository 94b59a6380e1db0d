"""The models on this computer, their versions, and what can be downloaded.

Only headers are read here, with nothing but Python's own library: the list has to be there
before PyTorch is, and at once.
"""

import json
import os
import re
import shutil
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, write_errors_named
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.provenance import data_of
from SAMAutoSegPanels.Translation import _
from SAMAutoSegPanels.Wording import listWords, sizeWords

SUFFIXES = (".safetensors", ".pth", ".pt")
ADAPTED_FORMAT = "SAMAutoSeg adapted model"

# Whatever follows after a dot.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{one}{n}" for one in ("COM", "LPT") for n in range(10))}

# No header is longer; a larger number in the first bytes means that the file is something else.
_LONGEST_HEADER = 16 << 20

_VERSIONED = re.compile(r"^(?P<name>.*?)(?: v(?P<number>[1-9]\d*))?$")


@dataclass(frozen=True)
class ModelEntry:
    """A model file.

    Attributes:
        path: of the file.
        name: without version.
        version: 1, 2, ...
        structures: their names; none for a plain SAM.
        plane: of the slices it was trained on, '' for a plain SAM.
        backbone: the SAM it was learned on, or is.
        backboneSha256: of the SAM it was learned on.
        created: date, as in 2026-08-24.
        score: mean Dice on held-out slices, None where none was measured.
        slices: how many it was trained on.
        license: SPDX name where it is known; of a trained model that of its data.
        data: what it was trained on, or the model that it goes on from.
        use: what it was made for, where somebody said so.
        notFor: what it was not made for.
        problem: why it cannot be used, '' if it can.
        writable: it lies in the user's folder and can be removed.
    """

    path: Path
    name: str
    version: int = 1
    structures: tuple = ()
    plane: str = ""
    backbone: str = ""
    backboneSha256: str = ""
    created: str = ""
    score: float | None = None
    slices: int = 0
    method: str = ""
    license: str = ""
    data: str = ""
    use: str = ""
    notFor: str = ""
    problem: str = ""
    writable: bool = True

    @property
    def title(self):
        """The name with the version, where there is more than the first."""
        return self.name if self.version == 1 else f"{self.name} v{self.version}"

    @property
    def summary(self):
        """One line under the list."""
        if self.problem:
            return self.problem
        if not self.structures:
            return _(
                "{backbone} knows no structures by itself: click or draw boxes under Correct,"
                " or train it under Retrain."
            ).format(backbone=self.backbone or self.name)
        parts = [listWords(self.structures, 6), self.backbone, self.created]
        if self.slices:
            parts.append(_("{count} slices").format(count=self.slices))
        if self.score is not None:
            parts.append(_("Dice {score}").format(score=f"{self.score:.2f}"))
        lines = [" \N{MIDDLE DOT} ".join(part for part in parts if part)]
        if self.use:
            lines.append(_("Made for: {use}.").format(use=self.use))
        if self.notFor:
            lines.append(_("Not for: {use}.").format(use=self.notFor))
        return "\n".join(lines)


class ModelLibrary:
    """Model files in the user's folder and in the folders that come with the program.

    Args:
        folder: the user's; it is made when the first model is kept.
        shipped: folders that are read only.
        catalogFile: `ModelCatalog.json`.
    """

    def __init__(self, folder, shipped=(), catalogFile=None):
        self.folder = Path(folder)
        self._folders = [(self.folder, True), *((Path(path), False) for path in shipped)]
        self._entries = {}
        self.catalog = []
        if catalogFile is not None:
            self.catalog = json.loads(Path(catalogFile).read_text(encoding="utf-8"))["models"]

    @property
    def defaultBackbone(self):
        """The catalogue's first entry."""
        return self.catalog[0]

    def hasDefaultBackbone(self):
        return self.isHere(self.defaultBackbone)

    def isHere(self, entry):
        """Whether a model of the catalogue was downloaded."""
        return self._sizeOf(self.folder / entry["file_name"]) == entry["bytes"]

    def models(self):
        """The newest version of every model: the user's, then those that come with the program,
        the best first, then SAMs as in the catalogue."""
        newest = {}
        for entry in self._all():
            key = (entry.writable, entry.name)
            if key not in newest or entry.version > newest[key].version:
                newest[key] = entry
        order = {c["file_name"]: n for n, c in enumerate(self.catalog)}

        def place(entry):
            plain, shipped = not entry.structures, not entry.writable
            known = order.get(entry.path.name, len(order))
            score = -(entry.score or 0.0) if shipped else 0.0
            return (plain, shipped, score, known, entry.name.casefold())

        return sorted(newest.values(), key=place)

    def suggested(self, lastUsed=""):
        """The model to begin with: the one used last, else the first of the user's own, or None.

        One that comes with the program is for one kind of image: that is for the user to choose.
        """
        wanted = [self.find(lastUsed), *(entry for entry in self.models() if entry.writable)]
        return next((entry for entry in wanted if entry and not entry.problem), None)

    def versions(self, entry):
        """All versions of a model, the newest first."""
        same = [e for e in self._all() if (e.name, e.writable) == (entry.name, entry.writable)]
        return sorted(same, key=lambda e: -e.version)

    def find(self, fileName):
        """The model with this file name, None where there is none."""
        if Path(fileName).name != fileName:  # scenes of others may ask for anything
            return None
        for folder, writable in self._folders:
            if self._isModel(folder / fileName):
                return self._entry(folder / fileName, writable)
        return None

    def offers(self):
        """Models of the catalogue that are not here yet, with a line for each."""
        return [
            (
                entry,
                f"{entry['title']} \N{MIDDLE DOT} {sizeWords(entry['bytes'])}, {entry['license']}",
            )
            for entry in self.catalog
            if not self.isHere(entry) and (entry["sha256"] or "pypi" in entry["source"])
        ]

    def keep(self, trained, name):
        """Move a trained model into the user's folder as the next version of ``name``.

        Raises:
            SAMAutoSegError: the name is no file name, the model is gone, or the disk is full.
        """
        return self._add(Path(trained), name, move=True)

    def restore(self, entry):
        """Make an earlier version the newest one: a copy of it, so that no version is lost.

        Raises:
            SAMAutoSegError: see `keep`.
        """
        return self._add(entry.path, entry.name, move=False)

    def remove(self, entry):
        """Delete a model's file.

        Raises:
            SAMAutoSegError: it is not the user's, or in use.
        """
        if not entry.writable:
            raise SAMAutoSegError(_("{name} comes with SAMAutoSeg.").format(name=entry.title))
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise SAMAutoSegError(
                _("{name} cannot be removed: {reason}").format(
                    name=entry.title, reason=error.strerror
                )
            ) from error

    def nextVersion(self, name):
        """The version that a model kept under this name would get.

        After those that come with the program, too: scenes know models by their file names.
        """
        numbers = [e.version for e in self._all() if e.name == name]
        return max(numbers, default=0) + 1

    def _add(self, source, name, move):
        name = checkedName(name)
        if not source.is_file():
            raise SAMAutoSegError(
                _("The file {path} is gone; it was deleted or moved.").format(path=source)
            )
        number = self.nextVersion(name)
        while not self._reserve(target := self.folder / fileName(name, number)):
            number += 1
        try:
            with replace_when_complete(target) as temporary:
                shutil.copyfile(source, temporary)
        except BaseException:
            target.unlink(missing_ok=True)  # nothing but the empty file of the reservation
            raise
        if move:
            with suppress(OSError):  # it goes with its job
                source.unlink()
        return self._entry(target, writable=True)

    def _reserve(self, target):
        """Take a version number; False when another Slicer took it just now."""
        with write_errors_named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                return False
        return True

    def _all(self):
        for folder, writable in self._folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if self._isModel(path):
                    yield self._entry(path, writable)

    def _isModel(self, path):
        hidden = path.name.startswith(".")
        return path.suffix in SUFFIXES and not hidden and self._sizeOf(path) > 0

    def _entry(self, path, writable):
        """What a file is; it is read again only where it has changed."""
        stamp = writable, self._stampOf(path)
        known = self._entries.get(path)
        if known is None or known[0] != stamp:
            known = self._entries[path] = stamp, self._readEntry(path, writable)
        return known[1]

    def _readEntry(self, path, writable):
        known = next((c for c in self.catalog if c["file_name"] == path.name), None)
        if known is not None:
            short = known["title"].split(",")[0]
            problem = "" if self._sizeOf(path) == known["bytes"] else _incomplete(path)
            return ModelEntry(
                path, short, backbone=short, license=known["license"], problem=problem
            )
        match = _VERSIONED.match(path.stem)
        base = ModelEntry(path, match["name"], int(match["number"] or 1), writable=writable)
        if path.suffix != ".safetensors":
            return base
        try:
            header = readHeader(path)
        except ValueError:
            return ModelEntry(path, base.name, base.version, problem=_damaged(path))
        if header.get("format") != ADAPTED_FORMAT:
            return base
        try:
            return self._adapted(base, json.loads(header["card"]))
        except (KeyError, TypeError, ValueError):
            return ModelEntry(path, base.name, base.version, problem=_damaged(path))

    def _adapted(self, base, card):
        provenance = card.get("provenance", {})
        data = data_of(provenance)
        known = next((c for c in self.catalog if c["name"] == card["backbone"]), None)
        return ModelEntry(
            base.path,
            base.name,
            base.version,
            structures=tuple(structure["name"] for structure in card["structures"]),
            plane=card["plane"],
            backbone=known["title"].split(",")[0] if known else card["backbone"],
            backboneSha256=card["backbone_sha256"],
            created=str(provenance.get("created", ""))[:10],
            score=provenance.get("held_out_dice"),
            slices=sum(len(image["slices"]) for image in provenance.get("images", [])),
            method=card["method"],
            license=data.get("data_license", ""),
            data=data.get("data", ""),
            use=provenance.get("use", ""),
            notFor=provenance.get("not_for", ""),
            writable=base.writable,
        )

    @classmethod
    def _sizeOf(cls, path):
        return cls._stampOf(path)[0]

    @staticmethod
    def _stampOf(path):
        """Size and time of change of a file; of one that is gone size -1."""
        try:
            status = path.stat()
        except OSError:
            return -1, 0
        return status.st_size, status.st_mtime_ns


def readHeader(path):
    """The text entries in the header of a safetensors file; ValueError if it is none.

    The format: eight bytes with the length of a JSON object, then that object, whose key
    ``__metadata__`` holds text by name.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 2 <= length <= _LONGEST_HEADER:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
    except (OSError, struct.error) as error:
        raise ValueError(str(error)) from error
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header.get("__metadata__", {})


def readStructures(path):
    """What a model segments, with label values, colors and terminology.

    Raises:
        SAMAutoSegError: the file is gone or damaged.
    """
    try:
        card = json.loads(readHeader(path)["card"])
    except (ValueError, KeyError) as error:
        if not Path(path).is_file():
            raise SAMAutoSegError(
                _("The model {path} was deleted or moved. Choose another model.").format(path=path)
            ) from error
        raise SAMAutoSegError(_damaged(Path(path))) from error
    return [Structure.from_json(values) for values in card["structures"]]


def fileName(name, version):
    return f"{name}{'' if version == 1 else f' v{version}'}.safetensors"


def checkedName(name):
    """A name that every system accepts for a file.

    Raises:
        SAMAutoSegError: it is empty or holds a character that file names must not hold.
    """
    name = name.strip()
    wrong = sorted({c for c in name if c in '<>:"/\\|?*' or ord(c) < 32})
    if wrong:
        raise SAMAutoSegError(
            _("A model name cannot hold {characters}").format(characters=" ".join(wrong))
        )
    if name.partition(".")[0].strip().upper() in _DEVICES:
        raise SAMAutoSegError(
            _("{name} is the name of a device on Windows. Choose another.").format(name=name)
        )
    if not name or name.startswith(".") or len(name) > 100:
        raise SAMAutoSegError(_("Give the model a name of 1 to 100 characters."))
    return _VERSIONED.match(name)["name"] or name


def suggestedName(structures, base=None):
    """A name for what is about to be trained: that of the model it refines, or its structures.

    A model that knows none of the structures is not refined. One that comes with the program is
    not replaced: what it becomes is its next version.
    """
    known = {name.casefold() for name in base.structures} if base is not None else ()
    if any(name.casefold() in known for name in structures):
        return base.name
    text = listWords(structures, 2)
    return "".join(c for c in text if c not in '<>:"/\\|?*') or _("My model")


def _damaged(path):
    return _("{name} is damaged or was not written to its end: remove it.").format(name=path.name)


def _incomplete(path):
    return _("{name} is not complete: download it again.").format(name=path.name)
