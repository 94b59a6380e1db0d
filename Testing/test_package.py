"""The library as a whole: its layers, and what it offers at the top."""

import ast
import inspect
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

import SAMAutoSegLib
from SAMAutoSegLib.images.structure import standard_structures
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.sam import catalog

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "SAMAutoSegLib"


def layers() -> list[str]:
    """The packages and files of the library from bottom to top, as the README lists them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = readme.split("\nSAMAutoSegLib/\n")[1].split("\nResources/")[0]
    names: list[str] = []
    for line in listed.splitlines():
        names += re.split(r",? +", line[2:].split("   ")[0].split("/ ")[0].rstrip("/"))
    return names


def imports() -> Iterator[tuple[Path, str]]:
    """Every import of a part of the library by a file of it, the name of the part."""
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("SAMAutoSegLib"):
                parts = (node.module or "").split(".")
                for name in parts[1:2] or [alias.name for alias in node.names]:
                    yield path, name


def test_each_layer_imports_only_from_those_above_it_in_the_readme() -> None:
    order = layers()
    there = {path.name.removesuffix(".py") for path in LIBRARY.iterdir()}
    known = there - {"__init__", "__main__", "__pycache__", "CMakeLists.txt", "py.typed"}
    assert set(order) == known
    wrong = []
    for path, name in imports():
        own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        if own in order and name in order and order.index(name) > order.index(own):
            wrong.append(f"{path.relative_to(LIBRARY)} imports from {name}")
    assert wrong == []


def test_names_at_the_top_are_what_they_say() -> None:
    for name in SAMAutoSegLib._MODULES:
        assert getattr(SAMAutoSegLib, name).__name__ == name and name in dir(SAMAutoSegLib)
    with pytest.raises(AttributeError, match="has no attribute 'segment_all'"):
        _ = SAMAutoSegLib.segment_all  # type: ignore[attr-defined]


def classes_in(hint: object) -> Iterator[str]:
    """The names of this library's classes in a type hint."""
    for part in get_args(hint):
        yield from classes_in(part)
    if isinstance(hint, type) and hint.__module__.startswith("SAMAutoSegLib"):
        yield hint.__name__


def test_what_the_functions_at_the_top_take_can_be_had_there_too() -> None:
    given = {"Backbone"}  # by `load_backbone` and `load_adapted`
    wanted = set()
    for name in SAMAutoSegLib._MODULES:
        offered = getattr(SAMAutoSegLib, name)
        if inspect.isfunction(offered):
            hints = get_type_hints(offered)
            hints.pop("return", None)
            wanted |= {found for hint in hints.values() for found in classes_in(hint)}
    assert {"Adapted", "EmbeddingCache", "Roi"} <= wanted
    assert wanted - given <= set(SAMAutoSegLib._MODULES)


def test_the_python_example_of_the_readme_runs(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((5, 32, 40), np.uint8)
    labels[1:4, 8:20, 10:24] = 1
    gray = np.random.default_rng(0).normal(100, 9, labels.shape) - 80 * labels
    grid = Grid((40, 32, 5), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), np.eye(3))
    for name in ("ct", "other"):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(gray.astype(np.int16), grid, name))
    write_segmentation(tmp_path / "labels.seg.nrrd", labels, grid, standard_structures(["liver"]))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, example = readme.split("## Use from Python")[1].split("```python\n")
    example = example.split("```")[0]
    example = example.replace('method="blo-sam"', 'method="blo-sam", settings={"steps": 3}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    with pytest.raises(SAMAutoSegLib.SAMAutoSegError) as fresh:
        exec(example, {})
    command = str(fresh.value).split(": ")[1]
    assert command == "samautoseg models fetch lite-medsam" and f"`{command}`" in before
    # In place of what this command brings: a SAM that learns in a moment.
    fetched = catalog.find("lite-medsam")
    assert fetched is not None
    fetched.local_path.parent.mkdir(parents=True)
    shutil.copy(tiny_file, fetched.local_path)
    exec(example, {})
    found, structures = SAMAutoSegLib.read_labels("other.seg.nrrd")
    assert found.array.shape == labels.shape and structures[0].name == "liver"
    assert SAMAutoSegLib.load_adapted("organs.safetensors", base=tiny_file).card.slices_learned == 2


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = dict(line.split(">=") for line in project["dependencies"] if ">=" in line)
    lines = (ROOT / ".ci/lowest.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(tested) == set(allowed)
    wrong = [name for name in allowed if f"{tested[name]}.".find(f"{allowed[name]}.") != 0]
    assert wrong == []
