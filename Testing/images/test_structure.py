import math

import numpy as np
import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.structure import (
    Structure,
    as_classes,
    label_type,
    matched,
    standard_structures,
    structure_named,
)

DISC_AND_BAR = [structure_named("disc", 3), structure_named("bar", 7)]


@pytest.mark.parametrize("name", ["left kidney", "Left Kidney", "kidney_left", "LEFT-KIDNEY"])
def test_a_known_structure_is_found_by_its_usual_spellings(name):
    structure = structure_named(name, 3)
    assert structure.name == name
    assert structure.label == 3
    assert "SCT^64033007^Kidney~SCT^7771000^Left" in structure.terminology
    assert structure.color == structure_named("left kidney", 7).color


def test_terminology_has_the_seven_parts_that_slicer_expects():
    for structure in standard_structures(["spleen", "right kidney", "mass", "bone"]):
        context, category, kind, modifier, regions, region, region_modifier = (
            structure.terminology.split("~")
        )
        assert context == "Segmentation category and type - 3D Slicer General Anatomy list"
        assert regions == "Anatomic codes - DICOM master list"
        for triple in (category, kind, modifier, region, region_modifier):
            assert len(triple.split("^")) == 3


def test_structures_are_labeled_in_their_order():
    structures = standard_structures(["spleen", "my lesion", "aorta"])
    assert [(s.label, s.name) for s in structures] == [
        (1, "spleen"),
        (2, "my lesion"),
        (3, "aorta"),
    ]


def test_the_six_demo_organs_have_colors_that_can_be_told_apart():
    names = ["spleen", "right kidney", "left kidney", "liver", "stomach", "aorta"]
    colors = [structure.color for structure in standard_structures(names)]
    assert min(math.dist(a, b) for a in colors for b in colors if a != b) > 0.2
    assert len(set(colors)) == 6


def test_unknown_structures_get_the_same_distinct_colors_every_time():
    colors = [structure_named(f"thing {n}", n).color for n in range(1, 9)]
    assert colors == [structure_named(f"other {n}", n).color for n in range(1, 9)]
    assert min(math.dist(a, b) for a in colors for b in colors if a != b) > 0.1
    assert len(set(colors)) == 8
    assert all(0 <= part <= 1 for color in colors for part in color)


def test_json_gives_the_same_structure_back():
    structure = structure_named("liver", 4)
    assert Structure.from_json(structure.to_json()) == structure


@pytest.mark.parametrize(
    "data",
    [
        {"name": "liver", "color": [0, 0, 0]},
        {"label": 1, "name": "liver", "color": [0, 0]},
        {"label": "x", "name": "liver", "color": [0, 0, 0]},
        {"label": 1, "name": "liver", "color": None},
    ],
)
def test_malformed_json_is_refused_with_what_was_found(data):
    with pytest.raises(SAMAutoSegError, match="liver"):
        Structure.from_json(data)


@pytest.mark.parametrize(("highest", "kind"), [(255, np.uint8), (256, np.uint16)])
def test_a_label_map_takes_a_byte_a_voxel_until_a_label_needs_two(highest, kind):
    assert label_type([structure_named("liver", highest), structure_named("aorta", 1)]) == kind


def test_structures_of_one_name_get_a_partner_each_that_of_the_same_label_first() -> None:
    first, second, third = (structure_named("kidney", label) for label in (1, 2, 3))
    assert matched([first, second], [second, first]) == [(first, first), (second, second)]
    assert matched([first, second], [second]) == [(first, None), (second, second)]
    assert matched([first, second], [third, first]) == [(first, first), (second, third)]


def test_label_values_become_class_numbers() -> None:
    labels = np.array([[0, 7, 3, 5, 300]], np.uint16)
    assert as_classes(labels, DISC_AND_BAR).tolist() == [[0, 2, 1, 0, 0]]
    assert as_classes(np.zeros((1, 2), np.uint8), DISC_AND_BAR).tolist() == [[0, 0]]


def test_negative_label_values_are_refused() -> None:
    with pytest.raises(SAMAutoSegError, match="label value -1: expected 0 or more"):
        as_classes(np.array([[0, -1]], np.int16), DISC_AND_BAR)


def test_more_structures_than_class_numbers_are_refused() -> None:
    many = [structure_named(f"part {n}", n) for n in range(1, 256)]
    with pytest.raises(SAMAutoSegError, match="255 structures: at most 254"):
        as_classes(np.zeros((1, 1), np.uint8), many)


def test_names_say_what_belongs_together_and_values_only_where_a_name_is_missing() -> None:
    liver, spleen = structure_named("liver", 1), structure_named("spleen", 2)
    stray = structure_named("label 7", 7)
    file = [structure_named("spleen", 1), structure_named("liver", 2), stray]
    assert matched([liver, spleen], file) == [(liver, file[1]), (spleen, file[0])]
    values = [structure_named("label 1", 1), structure_named("label 2", 2)]
    assert matched([liver, spleen], values) == [(liver, values[0]), (spleen, values[1])]
    assert matched([liver], [structure_named("aorta", 1), stray]) == [(liver, None)]
    mixed = [structure_named("label 1", 1), structure_named("Spleen", 9)]
    assert matched([liver, spleen], mixed) == [(liver, mixed[0]), (spleen, mixed[1])]
