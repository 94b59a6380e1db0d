"""Scores as text tables that read well in a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from SAMAutoSegLib.evaluate.metrics import StructureScore, mean_score


def score_table(scores: Sequence[StructureScore]) -> str:
    """A row for each structure: Dice, NSD, HD95 and the voxels compared; and the mean."""
    header = ["structure", "Dice", "NSD", "HD95 mm", "reference voxels", "predicted voxels"]
    rows = []
    for score in [*scores, mean_score(scores)]:
        voxels = [str(score.reference_voxels), str(score.predicted_voxels)]
        measures = [_number(score.dice, 3), _number(score.nsd, 3), _number(score.hd95_mm, 1)]
        # No structure has label 0: that is the mean, which has no voxels of its own.
        rows.append([score.name, *measures, *(voxels if score.label else ["", ""])])
    return _table(header, rows)


def comparison_table(methods: Mapping[str, Sequence[StructureScore]]) -> str:
    """A row for each structure and the mean, a column "Dice / NSD" for each method.

    All methods must have been scored on the same structures in the same order.
    """
    header = ["Dice / NSD", *methods]
    columns = [[*scores, mean_score(scores)] for scores in methods.values()]
    rows = [
        [row[0].name, *(f"{_number(s.dice, 3)} / {_number(s.nsd, 3)}" for s in row)]
        for row in zip(*columns, strict=True)
    ]
    return _table(header, rows)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    # Names to the left, numbers to the right; the colons say so in Markdown.
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            cells[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        for cells in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
