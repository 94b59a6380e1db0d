"""The structures that a label map holds: name, color and the code that Slicer and DICOM know."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from SAMAutoSegLib.errors import SAMAutoSegError

Color = tuple[float, float, float]

_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_ORGAN = "SCT^123037004^Anatomical Structure"
_ALTERED = "SCT^49755003^Morphologically Altered Structure"
HIGHEST_LABEL = 65535

# Class numbers are bytes, 0 is the background, and 255 stands for pixels that do not count.
_MOST_STRUCTURES = 254

_LEFT = "SCT^7771000^Left"
_RIGHT = "SCT^24028007^Right"


@dataclass(frozen=True)
class Structure:
    """One label of a segmentation.

    `label` is the voxel value (1 to 65535); `color` is RGB, each 0 to 1; `terminology` is Slicer's
    serialized terminology entry (`context~category~type~modifier~...`), empty if none is known.
    """

    label: int
    name: str
    color: Color
    terminology: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "name": self.name,
            "color": list(self.color),
            "terminology": self.terminology,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Structure:
        """Read what `to_json` wrote; `SAMAutoSegError` if a field is missing or malformed."""
        try:
            label, name, color = data["label"], str(data["name"]), color_of(data["color"])
            if int(label) == label and is_label(label) and color is not None:
                return cls(int(label), name, color, str(data.get("terminology", "")))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            pass
        raise SAMAutoSegError(
            f"not a structure with label (1 to {HIGHEST_LABEL}), name and color (red, green, blue, "
            f"each 0 to 1): {data!r}"
        )


def is_label(value: float) -> bool:
    """Whether a voxel of a structure can have this value; 0 is the background's."""
    return 1 <= value <= HIGHEST_LABEL


def color_of(parts: Iterable[float | str]) -> Color | None:
    """The color of three numbers or texts; None unless they are three from 0 to 1."""
    try:
        red, green, blue = (float(part) for part in parts)
    except ValueError:
        return None
    return (red, green, blue) if all(0 <= part <= 1 for part in (red, green, blue)) else None


def _entry(code: str, meaning: str, modifier: str = "^^", category: str = _ORGAN) -> str:
    return f"{_CONTEXT}~{category}~SCT^{code}^{meaning}~{modifier}~{_REGIONS}~^^~^^"


# SNOMED CT codes as in Slicer's "3D Slicer General Anatomy list". The colors are not Slicer's own:
# there the abdominal organs are six shades of the same red-brown, and neighbors drawn as thin
# contours could not be told apart.
_STANDARD: dict[str, tuple[Color, str]] = {
    "spleen": ((0.77, 0.55, 0.98), _entry("78961009", "Spleen")),
    "right kidney": ((1.00, 0.80, 0.25), _entry("64033007", "Kidney", _RIGHT)),
    "left kidney": ((1.00, 0.55, 0.20), _entry("64033007", "Kidney", _LEFT)),
    "liver": ((0.25, 0.80, 0.55), _entry("10200004", "Liver")),
    "stomach": ((0.30, 0.72, 1.00), _entry("69695003", "Stomach")),
    "aorta": ((0.98, 0.31, 0.33), _entry("15825003", "Aorta")),
    "pancreas": ((0.95, 0.62, 0.78), _entry("15776009", "Pancreas")),
    "gallbladder": ((0.62, 0.75, 0.20), _entry("28231008", "Gallbladder")),
    "esophagus": ((0.80, 0.60, 0.42), _entry("32849002", "Esophagus")),
    "duodenum": ((0.93, 0.90, 0.62), _entry("38848004", "Duodenum")),
    "colon": ((0.66, 0.49, 0.35), _entry("71854001", "Colon")),
    "right adrenal gland": ((0.98, 0.73, 0.59), _entry("23451007", "Adrenal gland", _RIGHT)),
    "left adrenal gland": ((0.88, 0.54, 0.45), _entry("23451007", "Adrenal gland", _LEFT)),
    "urinary bladder": ((0.95, 0.85, 0.10), _entry("89837001", "Bladder")),
    "prostate": ((0.72, 0.38, 0.70), _entry("41216001", "Prostate")),
    "heart": ((0.85, 0.25, 0.45), _entry("80891009", "Heart")),
    "right lung": ((0.55, 0.85, 0.90), _entry("39607008", "Lung", _RIGHT)),
    "left lung": ((0.40, 0.65, 0.85), _entry("39607008", "Lung", _LEFT)),
    "trachea": ((0.71, 0.89, 1.00), _entry("44567001", "Trachea")),
    "brain": ((0.98, 0.98, 0.88), _entry("12738006", "Brain")),
    "spinal cord": ((0.96, 0.84, 0.19), _entry("2748008", "Spinal cord")),
    "bone": ((0.95, 0.84, 0.57), _entry("272673000", "Bone", category="SCT^85756007^Tissue")),
    "mass": ((0.56, 0.93, 0.56), _entry("4147007", "Mass", category=_ALTERED)),
}

_OTHER_NAMES = {
    "tumor": "mass",
    "tumour": "mass",
    "lesion": "mass",
    "oesophagus": "esophagus",
    "gall bladder": "gallbladder",
    "bladder": "urinary bladder",
}


def structure_named(name: str, label: int) -> Structure:
    """The structure of that name, with its standard color and code where the name is known.

    Spelling is forgiven for case, underscores and the place of the side (`kidney_left` is the left
    kidney); the name itself is kept as given. An unknown name gets a color that depends on `label`
    alone and stays far from those of the labels near it, and no terminology.
    """
    standard = _STANDARD.get(_standard_name(name))
    if standard is None:
        return Structure(label, name, _distinct_color(label))
    return Structure(label, name, *standard)


def standard_structures(names: list[str]) -> list[Structure]:
    """Structures for these names, labeled 1, 2, 3, ... in that order."""
    return [structure_named(name, label) for label, name in enumerate(names, start=1)]


def label_type(structures: Sequence[Structure]) -> np.dtype:
    """The numpy type of a label map that holds these structures: a byte where that is enough."""
    return np.min_scalar_type(max(structure.label for structure in structures))


def as_classes(labels: np.ndarray, structures: Sequence[Structure]) -> np.ndarray:
    """Label values to class numbers: n + 1 for structure n, 0 for everything else; uint8.

    Raises:
        SAMAutoSegError: more structures than can be learned, or a negative label value.
    """
    if labels.min() < 0:
        raise SAMAutoSegError(f"label value {labels.min()}: expected 0 or more")
    if len(structures) > _MOST_STRUCTURES:
        most = _MOST_STRUCTURES
        raise SAMAutoSegError(
            f"{len(structures)} structures: at most {most} can be learned; are they labels of an "
            "image, or its gray levels?"
        )
    table = np.zeros(int(max(labels.max(), *(s.label for s in structures))) + 1, np.uint8)
    for number, structure in enumerate(structures, start=1):
        table[structure.label] = number
    return table[labels]


def matched(
    expected: Sequence[Structure], found: Sequence[Structure]
) -> list[tuple[Structure, Structure | None]]:
    """Each expected structure with its partner among those found, None where it has none.

    By name; by label where one of the two has no name, and then that one gets its partner's. Of
    several with one name, those of the same label are partners, the others in their order.
    """
    left = list(found)
    partners: dict[int, Structure] = {}

    def same_name(one: Structure, other: Structure) -> bool:
        return one.name.casefold() == other.name.casefold()

    def unnamed(one: Structure, other: Structure) -> bool:
        return _is_number(one.name) or _is_number(other.name)

    for belong, same_label in ((same_name, True), (same_name, False), (unnamed, True)):
        for number, structure in enumerate(expected):
            if number in partners:
                continue
            for other in left:
                if belong(structure, other) and (other.label == structure.label or not same_label):
                    partners[number] = other
                    left.remove(other)
                    break
    pairs = []
    for number, structure in enumerate(expected):
        partner = partners.get(number)
        if partner is not None and _is_number(structure.name):
            structure = replace(structure, name=partner.name)
        pairs.append((structure, partner))
    return pairs


def _is_number(name: str) -> bool:
    """Whether a structure was named after its value for want of a name."""
    return re.fullmatch(r"label \d+", name) is not None


def _standard_name(name: str) -> str:
    words = re.sub(r"[\s_\-.]+", " ", name.strip().lower()).split()
    sides = [word for word in words if word in ("left", "right")]
    plain = " ".join(sides + [word for word in words if word not in sides])
    return _OTHER_NAMES.get(plain, plain)


def _distinct_color(label: int) -> Color:
    # Steps of the golden ratio around the color circle never come close to a recent one.
    hue = (label * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.62, 0.80)
    return (round(red, 3), round(green, 3), round(blue, 3))
