"""Tables and the figure of the few-shot benchmark, from the lines that `run.py` wrote.

python Testing/benchmarks/few_shot/report.py
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

SCHEMES = {"volume": "rest of the same volume", "patients": "other patients"}
BASELINE = "joint"
_DRAWS = 10_000

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
    print(text)
    options.results.with_suffix(".md").write_text(
        "# Few labeled slices\n\nMade by `make benchmark-fewshot`; what is measured and how stands "
        "in `Testing/benchmarks/few_shot/run.py`. The difference to plain joint fine-tuning is "
        "paired by seed, with a bootstrap interval of 95 %.\n" + text,
        encoding="utf-8",
    )
    _figure(found, options.results.with_suffix(".png"))


def _table(place: tuple[str, str, int], methods: dict[str, dict[int, dict]]) -> str:
    name, scheme, count = place
    rows = [
        f"\n## {name}, {count} labeled slices, {SCHEMES[scheme]}\n",
        "| method | seeds | Dice | NSD 2 mm | gap | on empty slices | seconds | Dice - joint |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method, seeds in methods.items():
        values = {
            key: np.array([entry[key] for entry in seeds.values()], float)
            for key in ("dice", "nsd", "gap", "outside", "seconds")
        }
        rows.append(
            f"| {method} | {len(seeds)} | {values['dice'].mean():.3f} ± {values['dice'].std():.3f} "
            f"| {values['nsd'].mean():.3f} | {values['gap'].mean():.3f} "
            f"| {values['outside'].mean():.1%} | {values['seconds'].mean():.0f} "
            f"| {_difference(seeds, methods.get(BASELINE, {}))} |"
        )
    return "\n".join(rows)


def _difference(one: dict[int, dict], other: dict[int, dict]) -> str:
    seeds = sorted(one.keys() & other.keys())
    if one is other or len(seeds) < 2:
        return ""
    pairs = np.array([one[seed]["dice"] - other[seed]["dice"] for seed in seeds])
    drawn = np.random.default_rng(0).choice(pairs, (_DRAWS, len(pairs))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{pairs.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _figure(found: Found, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({place[:2] for place in found})
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False, sharey=True
    )
    handles = {}
    for axes, (name, scheme) in zip(all_axes[0], panels, strict=True):
        counts = sorted(place[2] for place in found if place[:2] == (name, scheme))
        for number, method in enumerate(sorted({m for p in found for m in found[p]})):
            points = [
                (count, [entry["dice"] for entry in found[name, scheme, count][method].values()])
                for count in counts
                if found[name, scheme, count].get(method)
            ]
            if points:
                handles[method] = axes.errorbar(
                    [count for count, _ in points],
                    [np.mean(values) for _, values in points],
                    [np.std(values) for _, values in points],
                    color=f"C{number}",
                    marker="o",
                    markersize=3,
                    capsize=2,
                    linewidth=1.2,
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, counts)
        axes.set_title(f"{name}: {SCHEMES[scheme]}", fontsize=9)
        axes.set_xlabel("labeled slices")
        axes.grid(alpha=0.3)
    all_axes[0][0].set_ylabel("mean Dice")
    figure.legend(handles.values(), handles, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
