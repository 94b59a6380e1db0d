"""What Slicer's build and the wheel package against what is there."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "SAMAutoSegLib"
MODULE = ROOT / "SAMAutoSeg"

packaged = pytest.mark.parametrize("folder", [LIBRARY, MODULE], ids=lambda path: path.name)


def listed(start: str, folder: Path = LIBRARY) -> list[str]:
    """The names between ``start`` and the closing parenthesis in the folder's CMakeLists."""
    text = re.sub(r"#.*", "", (folder / "CMakeLists.txt").read_text(encoding="utf-8"))
    match = re.search(re.escape(start) + r"([^)]*)\)", text)
    assert match is not None, f"{start} is not in {folder.name}/CMakeLists.txt"
    return match[1].replace("${MODULE_NAME}", folder.name).split()


@packaged
def test_every_python_file_is_listed_for_slicer(folder: Path) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    scripts = listed("set(MODULE_PYTHON_SCRIPTS", folder)
    assert sorted(there - set(scripts)) == [], f"add these to {folder.name}/CMakeLists.txt"
    assert sorted(set(scripts) - there) == [], f"remove these from {folder.name}/CMakeLists.txt"


@packaged
def test_the_list_for_slicer_is_sorted_and_names_no_file_twice(folder: Path) -> None:
    scripts = listed("set(MODULE_PYTHON_SCRIPTS", folder)
    assert scripts == sorted(set(scripts))


@packaged
def test_every_folder_with_python_files_is_a_package(folder: Path) -> None:
    # Slicer imports the module file itself from its folder, which therefore is none.
    folders = {path.parent for path in folder.rglob("*.py")} - {MODULE}
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []
    assert not (MODULE / "__init__.py").exists()


def test_every_resource_of_the_module_is_listed_for_slicer() -> None:
    there = {p.relative_to(MODULE).as_posix() for p in (MODULE / "Resources").rglob("*.*")}
    assert set(listed("set(MODULE_PYTHON_RESOURCES", MODULE)) == there


def test_every_folder_with_a_cmake_file_is_built() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    built = re.findall(r"^add_subdirectory\((\w+)\)", text, re.MULTILINE)
    there = [path.parent.name for path in sorted(ROOT.glob("*/CMakeLists.txt"))]
    assert sorted(built) == there


def test_the_entry_of_the_catalog_fits_the_build() -> None:
    entry = json.loads((ROOT / "SAMAutoSeg.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(SAMAutoSeg)" in text
    assert f'set(EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}")' in text
    assert f'set(EXTENSION_HOMEPAGE "{entry["scm_url"]}")' in text
    # What the schema of the index allows; all else is refused there.
    assert set(entry) <= {
        "$schema",
        "category",
        "scm_url",
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "enabled",
        "tier",
    }


@pytest.mark.parametrize("packager", ["slicer", "wheel"])
def test_catalogue_samples_and_starter_models_are_packaged(packager: str) -> None:
    folder = ROOT / "Resources"
    models = [*folder.glob("Models/*.safetensors"), folder / "Models" / "LICENSE.md"]
    wanted = [*folder.glob("*.json"), *models]
    there = sorted(path.relative_to(folder).as_posix() for path in wanted)
    if packager == "slicer":
        names = listed("foreach(resource IN ITEMS")
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
        for source, target in included.items():
            assert target == f"SAMAutoSegLib/{source}"
        names = [source.removeprefix("Resources/") for source in included]
    assert sorted(names) == there
