"""Tables and the figure of the few-shot benchmark, from the lines that `run.py` wrote.

python Testing/benchmarks/few_shot/report.py
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from contenders import CONTENDERS

SCHEMES = {
    "volume": "rest of the same volume",
    "spread": "spread over a volume, all its other slices",
    "patients": "other patients",
}

# In the figure: the primary endpoint, and what a user does who sees the whole volume.
_SHOWN = {("patients", 4): "other patients", ("spread", 8): "rest of the volume"}
_DRAWS = 10_000

# The interval of fewer pairs would be little more than their range.
_LEAST_PAIRS = 5

_HEAD = """# Few labeled slices

Made by `make benchmark-fewshot`. What is measured and how stands in
`Testing/benchmarks/few_shot/run.py`; the methods are explained in [results](../results.md#words),
the folders in [data](data.md).

- **Dice - joint**, **Dice - U-Net**: differences in Dice to joint fine-tuning on all labeled slices
  and to a U-Net from scratch. They are paired by seed; intervals are bootstrap intervals of 95 %,
  from five pairs on.
- **Gap**: Dice on the labeled slices minus Dice on the tested ones.
- **On empty slices**: the share of what was found that lies on slices without any structure.
- **Oracles** know the reference. Where other patients are tested they give the same for every seed.
- **A dash for HD95**: in some volume more than 5 % of a contour lie in slices where the other has
  none.
- **Seconds** are wall time on one thread. They tell little, since other work may have run beside.
  'ours + corrected' takes the model of 'ours' where that was trained before.
- **Without refit** is *ours* where all steps are those of the two levels. Within a volume they
  always are. **Untaught** is that without the slices without labels from which the pixel branch
  learns where there are several volumes. **Fixed weight** is that before the branch took twice the
  steps and got its weight as it does now; it tells what the two levels give beside such a branch.
- **Joint like ours** is *ours* without the two levels: plain fine-tuning in as many gradients, with
  all else alike.
- **A draw that cannot be learned** is left out, such as half of two slices, which shows nothing.
"""

# What a part gives: two methods that differ in it alone.
_PARTS = {
    "refit": ("ours", "without refit"),
    "slices without labels": ("without refit", "untaught"),
    "pixel branch": ("untaught", "BLO-SAM views"),
    "views and clean-up": ("BLO-SAM views", "BLO-SAM rotating"),
    "two levels": ("BLO-SAM rotating", "joint"),
    "two levels, with a light branch": ("fixed weight", "joint with fixed weight"),
    "two levels and refit": ("ours", "joint like ours"),
}

Found = dict[tuple[str, str, int], dict[str, dict[int, dict]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks/few-shot.jsonl"))
    options = parser.parse_args()
    found: Found = defaultdict(lambda: defaultdict(dict))
    for line in options.results.read_text().splitlines():
        entry = json.loads(line)
        place = (entry["set"], entry["scheme"], entry["slices"])
        found[place][entry["method"]][entry["seed"]] = entry
    text = "\n".join(_table(place, methods) for place, methods in sorted(found.items()))
    text += _parts(found)
    print(text)
    options.results.with_suffix(".md").write_text(_HEAD + text, encoding="utf-8")
    _figure(found, options.results.with_suffix(".png"))


def _table(place: tuple[str, str, int], methods: dict[str, dict[int, dict]]) -> str:
    name, scheme, count = place
    rows = [
        f"\n## {name}, {_labeled(count)}, {SCHEMES[scheme]}\n",
        "| method | seeds | Dice | NSD 2 mm | HD95 mm | gap | on empty slices | calibration error "
        "| seconds | Dice - joint | Dice - U-Net |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for method in sorted(methods, key=list(CONTENDERS).index):
        seeds = methods[method]
        dice = np.array([entry["dice"] for entry in seeds.values()])
        cells = [
            method,
            str(len(seeds)),
            f"{dice.mean():.3f}" + (f" ± {dice.std():.3f}" if len(dice) > 1 else ""),
            _mean(seeds, "nsd", "{:.3f}"),
            _mean(seeds, "hd95_mm", "{:.1f}"),
            _mean(seeds, "gap", "{:.3f}"),
            _mean(seeds, "outside", "{:.0%}"),
            _mean(seeds, "calibration", "{:.2f}"),
            _mean(seeds, "seconds", "{:.0f}"),
            _difference(seeds, methods.get("joint", {})),
            _difference(seeds, methods.get("U-Net", {})),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _parts(found: Found) -> str:
    """What the parts of *ours* give on other patients."""
    rows = [
        "\n\n## What each part gives, other patients\n",
        "| set | labeled slices | part | difference in Dice | better in |",
        "| --- | ---: | --- | --- | --- |",
    ]
    for (name, scheme, count), methods in sorted(found.items()):
        for part, (one, other) in _PARTS.items():
            pairs = _pairs(methods.get(one, {}), methods.get(other, {}))
            if scheme == "patients" and len(pairs) >= _LEAST_PAIRS:
                better = f"{(pairs > 0).sum()} of {len(pairs)} draws"
                rows.append(f"| {name} | {count} | {part} | {_interval(pairs)} | {better} |")
    return "\n".join(rows) + "\n"


def _labeled(count: int) -> str:
    return "1 labeled slice" if count == 1 else f"{count} labeled slices"


def _mean(seeds: dict[int, dict], key: str, shown: str) -> str:
    """The mean over the seeds, a dash if it is not known, or not finite, for one of them."""
    values = [entry[key] for entry in seeds.values()]
    return "-" if None in values else shown.format(np.mean(values))


def _difference(one: dict[int, dict], other: dict[int, dict]) -> str:
    pairs = _pairs(one, other)
    return "" if one is other or len(pairs) < 2 else _interval(pairs)


def _pairs(one: dict[int, dict], other: dict[int, dict]) -> np.ndarray:
    """Differences in Dice on the draws that both have."""
    seeds = sorted(one.keys() & other.keys())
    return np.array([one[seed]["dice"] - other[seed]["dice"] for seed in seeds])


def _interval(pairs: np.ndarray) -> str:
    drawn = np.random.default_rng(0).choice(pairs, (_DRAWS, len(pairs))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    interval = f" [{low:+.3f}, {high:+.3f}]" if len(pairs) >= _LEAST_PAIRS else ""
    return f"{pairs.mean():+.3f}{interval}"


def _figure(found: Found, path: Path) -> None:
    """Every draw as a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = sorted(place for place in found if place[1:] in _SHOWN)
    methods = [name for name in CONTENDERS if any(name in found[place] for place in places)]
    if not places:
        return
    figure, all_axes = pyplot.subplots(
        1,
        len(places),
        figsize=(2 + 2.4 * len(places), 1.2 + 0.3 * len(methods)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axes, place in zip(all_axes[0], places, strict=True):
        for row, method in enumerate(methods):
            dice = [entry["dice"] for entry in found[place].get(method, {}).values()]
            if dice:
                dots = {"color": "C0", "alpha": 0.35, "markersize": 5}
                axes.plot(dice, [row] * len(dice), "o", clip_on=False, **dots)  # 0 is whole too
                axes.plot(np.mean(dice), row, "|", color="C3", markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_xlim(0, 1)
        axes.set_xlabel("mean Dice")
        axes.set_title(f"{place[0]}, {place[2]} slices,\n{_SHOWN[place[1:]]}", fontsize=9)
        axes.grid(alpha=0.3)
    all_axes[0][0].invert_yaxis()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
