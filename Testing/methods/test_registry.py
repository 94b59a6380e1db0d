"""Methods are found in the folder of methods."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from SAMAutoSegLib.methods import registry
from SAMAutoSegLib.methods.method import Method, Steps
from SAMAutoSegLib.methods.registry import method_named, method_names
from SAMAutoSegLib.methods.settings import Settings

BOOST = '''
from SAMAutoSegLib.methods.joint import Joint
from typing import ClassVar

class Helper:
    name: str = "no method"

class Boost(Joint):
    """One more."""
    name: ClassVar[str] = "boost"
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of methods with one file more, in place of the true one."""
    own = Path(registry.__file__).parent
    for path in own.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "boost.py").write_text(BOOST)
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    monkeypatch.setattr("SAMAutoSegLib.methods.__path__", [str(tmp_path)])
    yield tmp_path
    sys.modules.pop("SAMAutoSegLib.methods.boost", None)


def test_methods_are_found_by_their_own_names() -> None:
    assert {"blo-sam", "joint"} <= set(method_names())
    assert all(method_named(name).name == name for name in method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_all_that_a_method_has_to_be(name: str) -> None:
    kind = method_named(name)
    assert issubclass(kind.settings_type, Settings)
    members = {member for protocol in (Method, Steps) for member in vars(protocol)}
    wanted = sorted(member for member in members if not member.startswith("_"))
    assert {"step", "optimizers", "notes", "adaptation"} <= set(wanted)
    assert [member for member in wanted if not hasattr(kind, member)] == []


def test_a_new_method_takes_one_file(folder: Path) -> None:
    assert "boost" in method_names() and "no method" not in method_names()
    assert method_named("boost").__doc__ == "One more."


def test_two_methods_of_one_name_are_told_apart_by_nobody(folder: Path) -> None:
    (folder / "other.py").write_text(BOOST)
    with pytest.raises(ValueError, match=r"'boost' is in boost.py and in other.py"):
        method_names()


def test_names_are_known_before_torch_is_imported() -> None:
    code = (
        "import sys; from SAMAutoSegLib.methods.registry import method_names;"
        "method_names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
