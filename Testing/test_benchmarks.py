"""The benchmarks take hours; what can be known of them in a second is tested."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """As Python starts a script: the modules in its folder can be imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER / "few_shot")
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(FOLDER):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_can_be_asked_for_its_options(script, monkeypatch, capsys):
    if "__main__" not in script.read_text(encoding="utf-8"):
        runpy.run_path(str(script))
        return
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_the_names_of_all_contenders_can_be_given_in_one_list(monkeypatch):
    contenders = runpy.run_path(str(FOLDER / "few_shot" / "contenders.py"))["CONTENDERS"]
    assert ",".join(contenders).split(",") == list(contenders)


def test_an_unknown_contender_is_named_before_anything_is_computed(monkeypatch, tmp_path, capsys):
    run = FOLDER / "few_shot" / "run.py"
    asked = ["--methods", "joint,best", "--results", str(tmp_path / "results.jsonl")]
    monkeypatch.setattr(sys, "argv", [str(run), *asked])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(run), run_name="__main__")
    assert left.value.code == 2
    assert "no such method: best;" in capsys.readouterr().err
