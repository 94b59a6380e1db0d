"""What Slicer's build and the wheel package against what is there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "SAMAutoSegLib"


def listed(start: str) -> list[str]:
    """The names between ``start`` and the closing parenthesis in the library's CMakeLists."""
    text = re.sub(r"#.*", "", (LIBRARY / "CMakeLists.txt").read_text(encoding="utf-8"))
    match = re.search(re.escape(start) + r"([^)]*)\)", text)
    assert match is not None, f"{start} is not in SAMAutoSegLib/CMakeLists.txt"
    return match[1].split()


def test_every_python_file_of_the_library_is_listed_for_slicer() -> None:
    there = {path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py")}
    scripts = listed("set(MODULE_PYTHON_SCRIPTS")
    assert sorted(there - set(scripts)) == [], "add these to SAMAutoSegLib/CMakeLists.txt"
    assert sorted(set(scripts) - there) == [], "remove these from SAMAutoSegLib/CMakeLists.txt"


def test_the_list_for_slicer_is_sorted_and_names_no_file_twice() -> None:
    scripts = listed("set(MODULE_PYTHON_SCRIPTS")
    assert scripts == sorted(set(scripts))


def test_every_folder_with_python_files_is_a_package() -> None:
    folders = {path.parent for path in LIBRARY.rglob("*.py")}
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize("packager", ["slicer", "wheel"])
def test_every_json_file_of_resources_is_packaged(packager: str) -> None:
    there = sorted(path.name for path in (ROOT / "Resources").glob("*.json"))
    if packager == "slicer":
        packaged = listed("foreach(json IN ITEMS")
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
        for source, target in included.items():
            assert target == f"SAMAutoSegLib/{source}"
        packaged = [Path(source).name for source in included]
    assert sorted(packaged) == there
