"""The file of an adapted model: what was learned, and all that is needed to use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.files import replace_when_complete, sha256_of_file, user_data_dir
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.slices import Plane
from SAMAutoSegLib.images.structure import Structure
from SAMAutoSegLib.provenance import origins
from SAMAutoSegLib.resources import resource
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone, read_checkpoint, recognize
from SAMAutoSegLib.sam.input_spec import InputSpec

FORMAT = "SAMAutoSeg adapted model"
FORMAT_VERSION = 1
SUFFIX = ".safetensors"

CALIBRATION = "calibration"
"""Entry of a card's provenance: what `methods.cross_fit.cross_fit` gives."""


@dataclass(frozen=True)
class ModelCard:
    """The header of a model file.

    Attributes:
        backbone: name of the SAM it was learned on.
        backbone_sha256: of that SAM's file; no other gives the same features.
        input: how a slice becomes the encoder's input.
        intensity: how image values become gray levels.
        plane: the plane of the slices it was trained on.
        adaptation: which parts are adapted.
        structures: what it segments; class n + 1 of the logits is structure n.
        method: name of the training method.
        settings: of the method, as it ran.
        provenance: when, from which images (with SHA-256) and slices, scores and how they were
            obtained.
    """

    backbone: str
    backbone_sha256: str
    input: InputSpec
    intensity: Intensity
    plane: Plane
    adaptation: Adaptation
    structures: tuple[Structure, ...]
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def slices_learned(self) -> int | None:
        """How many labeled slices it was learned from; None where the file does not tell."""
        return _slices_of(self.provenance)

    @property
    def most_slices_learned(self) -> int | None:
        """The same, of this model or of the one that learned from most among those before it."""
        counts = map(_slices_of, origins(self.provenance))
        return max((count for count in counts if count is not None), default=None)

    @property
    def temperature(self) -> float:
        """What its logits are divided by for true probabilities: of its calibration, else 1."""
        return float((self.provenance.get(CALIBRATION) or {}).get("temperature", 1.0))

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "input": self.input.to_json(),
            "intensity": self.intensity.to_json(),
            "adaptation": self.adaptation.to_json(),
            "structures": [structure.to_json() for structure in self.structures],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelCard:
        """Read what `to_json` wrote; `SAMAutoSegError` if a field is missing or malformed."""
        try:
            card = cls(
                **{
                    **values,
                    "input": InputSpec.from_json(values["input"]),
                    "intensity": Intensity.from_json(values["intensity"]),
                    "adaptation": Adaptation.from_json(values["adaptation"]),
                    "structures": tuple(Structure.from_json(s) for s in values["structures"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SAMAutoSegError(f"the model's header is incomplete: {error}") from error
        if card.plane not in get_args(Plane):
            planes = ", ".join(get_args(Plane))
            raise SAMAutoSegError(f"the model's header has the plane {card.plane!r}: not {planes}")
        labels = [structure.label for structure in card.structures]
        if not labels or len(set(labels)) < len(labels):
            raise SAMAutoSegError(
                f"the model's header has structures of the labels {labels}: expected one or more, "
                "all different"
            )
        for name in ("settings", "provenance"):
            if not isinstance(getattr(card, name), dict):
                raise SAMAutoSegError(f"the model's header has no entries under {name!r}")
        return card


@dataclass(frozen=True)
class Adapted:
    """A model with all that is needed to use it.

    Attributes:
        backbone: the one that the model was learned on; the two are on one device.
    """

    model: AdaptedModel
    card: ModelCard
    backbone: Backbone


def _slices_of(provenance: dict[str, Any]) -> int | None:
    images = provenance.get("images")
    return sum(len(image["slices"]) for image in images) if images else None


def save_adapted(path: str | Path, adapted: Adapted) -> None:
    """Write a model whole or not at all; `SAMAutoSegError` if it cannot be written.

    Its backbone is not written: the card names the file, which stays where it is.
    """
    header = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "card": json.dumps(adapted.card.to_json()),
    }
    with replace_when_complete(path) as temporary:
        # Not `save_file`, which makes files that no other user of a shared folder may read.
        temporary.write_bytes(save(adapted.model.learned_state(), header))


def read_card(path: str | Path) -> ModelCard:
    """Read the header of a model file.

    Raises:
        SAMAutoSegError: unreadable, not an adapted model, or of a newer format.
    """
    return _read(path)[1]


def load_adapted(
    path: str | Path,
    *,
    base: str | Path | None = None,
    device: torch.device | str = "auto",
    precision: torch.dtype | None = None,
) -> Adapted:
    """Load a model file together with the backbone it was learned on.

    Args:
        path: the model file, or its name in the user's folder or among the starter models.
        base: the backbone's file or name, see `catalog.file_of`; by default the file with the
            SHA-256 that the model names, of the catalogue or in the model folder.
        device, precision: see `load_backbone`.

    Raises:
        SAMAutoSegError: as `read_card`; the backbone is not on this machine, or is another one.
    """
    tensors, card = _read(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SAMAutoSegError(
                f"{path} is damaged: its tensor {name} has values that are no numbers; get it anew"
            )
    source = base or _entry_of(card)
    if source is not None:
        _require_backbone(source, card, path)
    elif (source := _own_backbone(card)) is None:
        raise SAMAutoSegError(
            f"{path} was trained on the backbone {card.backbone}, which is neither in the "
            "catalogue nor in the model folder: name its file with --base"
        )
    backbone = load_backbone(
        source,
        side=card.input.side,
        normalization=card.input.normalization,
        device=device,
        precision=precision,
        sha256=card.backbone_sha256,  # as was found above
    )
    backbone.spec = card.input
    model = AdaptedModel(backbone, len(card.structures) + 1, card.adaptation)
    with _named(path):
        model.load_learned_state(tensors)
    return Adapted(model.eval(), card, backbone)


def _entry_of(card: ModelCard) -> str | None:
    """The catalogue's name of the backbone that a model was learned on."""
    entry = catalog.find_by_sha256(card.backbone_sha256)
    return None if entry is None else entry.name


def _own_backbone(card: ModelCard) -> Path | None:
    """The user's file of that backbone."""
    # They are large: the one with the right name first.
    for file in sorted(catalog.own_files(), key=lambda file: file.name != card.backbone):
        with suppress(SAMAutoSegError):  # a dead link must not hide the others
            if sha256_of_file(file) == card.backbone_sha256:
                return file
    return None


def _require_backbone(source: str | Path, card: ModelCard, path: str | Path) -> None:
    file, entry = catalog.file_of(source)
    # One that is missing is reported where it is loaded. Another one is not even loaded: it may
    # not have the input side of this model, which would be told instead.
    if not file.is_file() or (digest := sha256_of_file(file)) == card.backbone_sha256:
        return
    if entry and entry.sha256 == card.backbone_sha256:
        raise SAMAutoSegError(
            f"{file} is damaged (SHA-256 {digest[:12]}...): get it anew with "
            f"'samautoseg models fetch {entry.name}'"
        )
    raise SAMAutoSegError(
        f"{path} was trained on the backbone {card.backbone} "
        f"(SHA-256 {card.backbone_sha256[:12]}...), not on {source} "
        f"({digest[:12]}...): name that one with --base"
    )


def shipped_models() -> list[Path]:
    """The starter models that come with the program, by name."""
    folder = resource("ModelCatalog.json").parent / "Models"
    return sorted(folder.glob(f"*{SUFFIX}"))


def located(model: str | Path) -> Path:
    """The file of a path, or of the name of a starter model or one in the user's folder."""
    if not Path(model).is_file():
        for known in known_models():
            if str(model) in (known.stem, known.name):
                return known
    return Path(model)


def known_models() -> list[Path]:
    """The files of starter models, then those in the user's folder."""
    return [*shipped_models(), *sorted((user_data_dir() / "models").glob(f"*{SUFFIX}"))]


def _read(path: str | Path) -> tuple[dict[str, Tensor], ModelCard]:
    path = located(path)
    if not path.exists():
        if catalog.find(str(path)):
            raise _knows_no_structure(path, "a plain SAM")
        names = ", ".join(known.stem for known in known_models())
        raise SAMAutoSegError(f"no file and no model is named {path}; models: {names}")
    checkpoint = read_checkpoint(path)
    header = checkpoint.header
    if header.get("format") != FORMAT:
        found = recognize(checkpoint.tensors)
        if found.family and not found.adapted:
            raise _knows_no_structure(path, found.words)
        raise SAMAutoSegError(
            f"{path} is not an adapted model: expected a file that 'samautoseg finetune' wrote; "
            "'samautoseg models inspect' tells what it is"
        )
    version = header.get("format_version", "?")
    if version != str(FORMAT_VERSION):
        raise SAMAutoSegError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "update SAMAutoSeg"
        )
    try:
        values = json.loads(header.get("card", ""))
    except json.JSONDecodeError as error:
        raise SAMAutoSegError(f"{path} is damaged: its header is no JSON") from error
    with _named(path):
        return checkpoint.tensors, ModelCard.from_json(values)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Within, errors about the content of a file name it."""
    try:
        yield
    except SAMAutoSegError as error:
        raise SAMAutoSegError(f"{path}: {error}") from error


def _knows_no_structure(path: str | Path, words: str) -> SAMAutoSegError:
    return SAMAutoSegError(
        f"{path} is {words}, which knows no structures yet: teach it some with "
        "'samautoseg finetune' first"
    )
