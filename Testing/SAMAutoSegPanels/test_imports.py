"""What the module loads when Slicer starts: every module of it delays everybody's start."""

import ast
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "SAMAutoSeg"

# What the Extensions Index allows at file scope, and the program itself.
BUNDLED = {"slicer", "qt", "ctk", "vtk", "numpy", "scipy", "SimpleITK"}
OWN = {"SAMAutoSegLib", "SAMAutoSegPanels", "SAMAutoSegScene"}

# Parts of the library that load neither torch nor anything else that is not bundled.
LIGHT = {
    "SAMAutoSegLib",
    "SAMAutoSegLib.engine.arrays",
    "SAMAutoSegLib.engine.client",
    "SAMAutoSegLib.engine.jobs",
    "SAMAutoSegLib.engine.protocol",
    "SAMAutoSegLib.engine.transport",
    "SAMAutoSegLib.engine.volumes",
    "SAMAutoSegLib.errors",
    "SAMAutoSegLib.files",
    "SAMAutoSegLib.images.bounding_box",
    "SAMAutoSegLib.images.intensity",
    "SAMAutoSegLib.images.selection",
    "SAMAutoSegLib.images.slices",
    "SAMAutoSegLib.images.structure",
    "SAMAutoSegLib.images.volume",
    "SAMAutoSegLib.methods.settings",
    "SAMAutoSegLib.provenance",
    "SAMAutoSegLib.resources",
}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def at_file_scope(tree: ast.Module) -> set[str]:
    outside = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return imported(ast.Module(outside, []))


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_that_slicer_lacks_is_imported_at_file_scope(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tops = {name.split(".")[0] for name in at_file_scope(tree)}
    assert tops <= BUNDLED | OWN | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_of_the_library_only_what_needs_no_torch_runs_in_slicer(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {name for name in imported(tree) if name.split(".")[0] == "SAMAutoSegLib"}
    assert used <= LIGHT


def test_what_counts_as_light_loads_no_torch() -> None:
    import subprocess

    code = "import sys\n" + "".join(f"import {name}\n" for name in sorted(LIGHT))
    code += "print([n for n in ('torch', 'SimpleITK', 'scipy', 'safetensors') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=MODULE.parent,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_module_file_loads_none_of_the_panels() -> None:
    tree = ast.parse((MODULE / "SAMAutoSeg.py").read_text(encoding="utf-8"))
    own = {name for name in at_file_scope(tree) if name.split(".")[0] in OWN}
    assert own == {"SAMAutoSegPanels.Options"}
