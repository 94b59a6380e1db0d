"""Pictures of a result: slices with contours, and the course of a training."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from SAMAutoSegLib.files import replace_when_complete
from SAMAutoSegLib.images.structure import Structure

_BACKGROUND = "#0d1117"
_TEXT = "#e6edf3"
_FAINT = "#7d8590"
_GRID = "#21262d"
_LABELED = "#f2cc60"
_CURVES = ("#58a6ff", "#f778ba", "#7ee787", "#ffa657", "#d2a8ff")

_MOST_COLUMNS = 5
_DPI = 150


def montage_png(
    path: str | Path,
    images: Sequence[np.ndarray],
    references: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    structures: Sequence[Structure],
    slice_numbers: Sequence[int],
    labeled: Collection[int] = (),
    pixel_spacing: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> None:
    """Draw slices with the contours of the reference (white) and the prediction (in color).

    `images` are uint8 [rows, columns], `references` and `predictions` label maps of the same shape,
    all oriented as `SliceStack` gives them; `pixel_spacing` is in mm (row, column). The slices
    whose number is in `labeled`, those that the model learned from, are framed and marked.
    """
    columns = min(_MOST_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    window = _window_on_content(images)
    height = (window[0].stop - window[0].start) * pixel_spacing[0]
    width = (window[1].stop - window[1].start) * pixel_spacing[1]
    cell = 2.6
    top, bottom = (0.36 if title else 0.04), 0.6
    size = (columns * cell, rows * (cell * height / width + 0.26) + top + bottom)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=_BACKGROUND)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.008,
        right=0.992,
        bottom=bottom / size[1],
        top=1 - (top + 0.22) / size[1],
        wspace=0.03,
        hspace=0.26 / (cell * height / width),
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        number = slice_numbers[index]
        axes.imshow(
            image[window],
            cmap="gray",
            vmin=0,
            vmax=255,
            aspect=pixel_spacing[0] / pixel_spacing[1],
            interpolation="lanczos",
        )
        for structure in structures:
            _contour(axes, predictions[index][window] == structure.label, structure.color, "solid")
            if references is not None:
                _contour(axes, references[index][window] == structure.label, "white", "dashed")
        _caption(axes, number, number in labeled)
    if title:
        figure.text(
            0.012, 1 - 0.2 / size[1], title, color=_TEXT, fontsize=11, weight="bold", va="center"
        )
    _montage_legend(figure, structures, references is not None, bool(labeled), size)
    _save(figure, path)


def training_curve_png(
    path: str | Path, history: Sequence[Mapping[str, float]], title: str = ""
) -> None:
    """Draw the course of a training: losses in the upper panel, Dice in the lower one.

    Each entry of `history` has `step` and any of: values whose name holds "loss", values whose name
    holds "dice" (0 to 1). A value need not be in every entry; the best Dice is marked. Underscores
    in the names become spaces in the legend. Other values, and those of a single structure
    ("held_out_dice/liver"), are not drawn.
    """
    names = list(dict.fromkeys(name for entry in history for name in entry))
    panels = [
        (label, [name for name in names if word in name.lower() and "/" not in name])
        for word, label in (("loss", "loss"), ("dice", "Dice"))
    ]
    panels = [(label, drawn) for label, drawn in panels if drawn]
    count = max(len(panels), 1)
    size = (7.5, 0.6 + 2.3 * count)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=_BACKGROUND)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    stacked = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axes in stacked:
        _dark(axes)
    for axes, (label, drawn) in zip(stacked, panels, strict=False):
        for name, color in zip(drawn, _CURVES * len(drawn), strict=False):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            _curve(axes, points, color, name.replace("_", " "), mark_best=label == "Dice")
        axes.set_ylabel(label, color=_TEXT)
        axes.legend(frameon=False, labelcolor=_TEXT, fontsize=8.5)
    stacked[-1].set_xlabel("step", color=_TEXT)
    if title:
        stacked[0].set_title(title, color=_TEXT, fontsize=11, weight="bold", loc="left")
    figure.align_ylabels()
    _save(figure, path)


def _window_on_content(images: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """The rows and columns that hold something in any of the slices, with a narrow margin."""
    visible = np.max(np.stack(images), axis=0) > 25
    window = []
    for axis in (1, 0):
        occupied = np.flatnonzero(visible.mean(axis=axis) > 0.02)
        length = visible.shape[1 - axis]
        if occupied.size == 0:
            window.append(slice(0, length))
            continue
        margin = max(1, length // 50)
        first, last = int(occupied[0]) - margin, int(occupied[-1]) + margin
        window.append(slice(max(first, 0), min(last + 1, length)))
    return window[0], window[1]


def _contour(axes: Axes, mask: np.ndarray, color: object, style: str) -> None:
    if not mask.any():
        return
    # A border of background, so that a structure cut by the edge of the picture is outlined too.
    padded = np.pad(mask, 1).astype(float)
    rows, columns = (np.arange(-1, length + 1) for length in mask.shape)
    dashed = style == "dashed"
    axes.contour(
        columns,
        rows,
        padded,
        levels=[0.5],
        colors=[color],
        linewidths=0.6 if dashed else 1.3,
        linestyles=[(0, (3, 2))] if dashed else "solid",
        alpha=0.9 if dashed else 1.0,
    )
    axes.set_xlim(-0.5, mask.shape[1] - 0.5)
    axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _caption(axes: Axes, number: int, labeled: bool) -> None:
    axes.set_title(
        f"slice {number}  labeled" if labeled else f"slice {number}",
        color=_LABELED if labeled else _FAINT,
        fontsize=8.5,
        loc="left",
        pad=3,
    )
    if labeled:
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(_LABELED)
            spine.set_linewidth(1.4)


def _montage_legend(
    figure: Figure,
    structures: Sequence[Structure],
    with_reference: bool,
    with_labeled: bool,
    size: tuple[float, float],
) -> None:
    names = [Line2D([], [], color=s.color, linewidth=2.2, label=s.name) for s in structures]
    kinds: list[Line2D | Patch] = [Line2D([], [], color=_FAINT, linewidth=2.2, label="prediction")]
    if with_reference:
        kinds.append(
            Line2D([], [], color="white", linewidth=1, linestyle=(0, (3, 2)), label="reference")
        )
    if with_labeled:
        kinds.append(Patch(facecolor="none", edgecolor=_LABELED, label="labeled slice (training)"))
    for handles, y in ((names, 0.42), (kinds, 0.16)):
        figure.legend(
            handles=handles,
            loc="center",
            bbox_to_anchor=(0.5, y / size[1]),
            ncols=len(handles),
            frameon=False,
            labelcolor=_TEXT,
            fontsize=8.5,
            handlelength=1.6,
            columnspacing=1.6,
        )


def _dark(axes: Axes) -> None:
    axes.set_facecolor(_BACKGROUND)
    axes.tick_params(colors=_FAINT, labelsize=8.5)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID)


def _curve(
    axes: Axes, points: list[tuple[float, float]], color: str, label: str, mark_best: bool
) -> None:
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=color, linewidth=1.6, label=label)
    if mark_best and not all(map(math.isnan, values)):
        best = int(np.nanargmax(values))
        axes.plot(steps[best], values[best], "o", color=color, markersize=5)
        axes.annotate(
            f"{values[best]:.3f}",
            (steps[best], values[best]),
            textcoords="offset points",
            xytext=(0, -12),
            ha="center",
            color=color,
            fontsize=8.5,
        )


def _save(figure: Figure, path: str | Path) -> None:
    # Drawn without pyplot: no global state, and no window system is ever asked for.
    FigureCanvasAgg(figure)
    with replace_when_complete(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor())
