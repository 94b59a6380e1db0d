import math

from SAMAutoSegLib.evaluate.metrics import StructureScore
from SAMAutoSegLib.evaluate.table import comparison_table, score_table

GOOD = StructureScore("liver", 1, 0.95, 0.9, 3.25, 1000, 990)
MISSED = StructureScore("left kidney", 2, 0.0, 0.0, math.inf, 50, 0)
ABSENT = StructureScore("aorta", 3, math.nan, math.nan, math.nan, 0, 0)


def test_a_table_has_a_row_for_each_structure_and_the_mean():
    assert score_table([GOOD, MISSED, ABSENT]).splitlines() == [
        "| structure   |  Dice |   NSD | HD95 mm | reference voxels | predicted voxels |",
        "| ----------- | ----: | ----: | ------: | ---------------: | ---------------: |",
        "| liver       | 0.950 | 0.900 |     3.2 |             1000 |              990 |",
        "| left kidney | 0.000 | 0.000 |     inf |               50 |                0 |",
        "| aorta       |     - |     - |       - |                0 |                0 |",
        "| mean        | 0.475 | 0.450 |     inf |                  |                  |",
    ]


def test_methods_stand_side_by_side():
    assert comparison_table({"boxes": [GOOD], "BLO-SAM": [MISSED]}).splitlines() == [
        "| Dice / NSD |         boxes |       BLO-SAM |",
        "| ---------- | ------------: | ------------: |",
        "| liver      | 0.950 / 0.900 | 0.000 / 0.000 |",
        "| mean       | 0.950 / 0.900 | 0.000 / 0.000 |",
    ]
