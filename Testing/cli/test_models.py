import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from SAMAutoSegLib.adapt.adapted_file import located
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.sam import catalog

WEIGHTS = b"weights"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model folder, and a catalogue whose first model is tiny."""
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    first, *others = catalog.entries()
    tiny = dataclasses.replace(first, sha256=digest, bytes=len(WEIGHTS))
    monkeypatch.setattr(catalog, "entries", lambda: (tiny, *others))
    return tmp_path / "data" / "models"


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main(["models", "list", "--json"]) == 0
    return {model["name"]: model for model in json.loads(capsys.readouterr().out)}


def save_adapted(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"structures": [{"name": "spleen"}, {"name": "liver"}]}
    header = {"format": "SAMAutoSeg adapted model", "card": json.dumps(card)}
    save_file({"prompt": torch.zeros(3)}, path, header)


def test_a_model_is_fetched_from_a_folder_listed_and_removed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys)["lite-medsam"]["here"] is False
    (tmp_path / "lite_medsam.pth").write_bytes(WEIGHTS)
    assert main(["models", "fetch", "lite-medsam", "--from-folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"lite-medsam: {folder / 'lite_medsam.pth'}\n"
    assert listed(capsys)["lite-medsam"]["here"] is True
    assert main(["models", "remove", "lite-medsam"]) == 0
    assert list(folder.iterdir()) == []
    assert listed(capsys)["lite-medsam"]["here"] is False


def test_the_list_for_people_names_state_license_and_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(folder / "abdomen.safetensors")
    assert main(["models", "list"]) == 0
    told = capsys.readouterr().out
    assert "lite-medsam" in told and "not fetched" in told and "Apache-2.0" in told
    assert "segments spleen, liver" in told
    assert told.endswith(f"Model folder: {folder}\n")


def test_a_damaged_file_is_listed_as_unusable_among_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(folder / "good.safetensors")
    (folder / "bad.safetensors").write_text("not a model")
    models = listed(capsys)
    assert str(models["bad.safetensors"]["title"]).startswith("unusable: ")
    assert models["good.safetensors"]["title"] == "segments spleen, liver"
    assert main(["models", "remove", "bad.safetensors"]) == 0
    assert [path.name for path in folder.iterdir()] == ["good.safetensors"]


@pytest.mark.parametrize(
    "card", [{"structures": [5]}, {"structures": 5}, {"structures": [{}]}, {"input": "x"}]
)
def test_a_model_with_a_malformed_header_is_listed_as_unusable(
    folder: Path, card: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir(parents=True)
    header = {"format": "SAMAutoSeg adapted model", "card": json.dumps(card)}
    save_file({"prompt": torch.zeros(3)}, folder / "bad.safetensors", header)
    assert "header is malformed" in str(listed(capsys)["bad.safetensors"]["title"])


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("name", ["gone.safetensors", "lite_medsam.pth"])
def test_a_link_to_nowhere_is_listed_and_can_be_removed(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(folder / "good.safetensors")
    (folder / name).symlink_to("nowhere")
    models = listed(capsys)
    assert models["good.safetensors"]["here"] is True
    if name in models:
        assert models[name]["title"] == "unusable: a link to nowhere, which does not exist"
    else:
        assert models["lite-medsam"]["here"] is False
    assert main(["models", "list"]) == 0
    assert main(["models", "remove", name]) == 0
    assert [path.name for path in folder.iterdir()] == ["good.safetensors"]


@pytest.mark.parametrize("action", ["fetch", "remove"])
def test_an_unknown_name_is_an_error_and_nothing_is_done(
    action: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(folder / "good.safetensors")
    assert main(["models", action, "good.safetensors", "no-such-model"]) == 2
    assert (
        "samautoseg: error: model 'no-such-model'" in capsys.readouterr().err or action == "fetch"
    )
    assert (folder / "good.safetensors").exists()


def test_remove_does_not_reach_outside_of_the_model_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(tmp_path / "data" / "mine.safetensors")
    assert main(["models", "remove", "../mine.safetensors"]) == 2
    assert (tmp_path / "data" / "mine.safetensors").exists()


def test_models_are_removed_by_their_name_without_a_suffix_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("organs.safetensors", "organs.pth", "heart.safetensors"):
        save_adapted(folder / name)
    assert main(["models", "remove", "organs"]) == 2
    assert "'organs' is several models" in capsys.readouterr().err
    assert main(["models", "remove", "heart", "heart.safetensors"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["organs.pth", "organs.safetensors"]


def test_of_models_to_remove_the_exact_name_counts_first(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("organs.pth.safetensors", "organs.pth", "lite_medsam.pth", "lite-medsam.pt"):
        save_adapted(folder / name)
    assert main(["models", "remove", "organs.pth", "lite-medsam"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "lite-medsam.pt",
        "organs.pth.safetensors",
    ]


def test_a_starter_model_is_neither_fetched_nor_removed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "fetch", "hippocampus"]) == 2
    assert "there is nothing to fetch" in capsys.readouterr().err
    assert main(["models", "remove", "hippocampus"]) == 2
    assert "hippocampus comes with the program" in capsys.readouterr().err


def test_inspect_says_what_a_file_is_by_path_and_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(folder / "abdomen.safetensors")
    assert main(["models", "inspect", str(folder / "abdomen.safetensors")]) == 0
    by_path = capsys.readouterr().out
    assert "spleen, liver" in by_path and "SHA-256" in by_path
    for name in ("abdomen.safetensors", "abdomen"):
        assert main(["models", "inspect", name]) == 0
        assert capsys.readouterr().out == by_path
    assert main(["models", "inspect", "hippocampus"]) == 0  # a starter model
    assert "anterior hippocampus" in capsys.readouterr().out
    assert main(["models", "inspect", "abdomen.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structures"] == ["spleen", "liver"]


def test_inspect_of_a_model_that_was_not_fetched_says_how_to_fetch_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "inspect", "lite-medsam"]) == 2
    assert "models fetch lite-medsam" in capsys.readouterr().err


def test_inspect_of_a_text_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.pth").write_text("hello, this is a text file")
    assert main(["models", "inspect", str(tmp_path / "weights.pth")]) == 2
    told = capsys.readouterr().err
    assert "weights.pth is not a checkpoint" in told and told.count("\n") == 1


def test_a_file_is_copied_to_the_models_whatever_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(tmp_path / "mine.safetensors")
    assert main(["models", "add", str(tmp_path / "mine.safetensors"), "--json"]) == 0
    *progress, last = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["fraction"] for line in progress][-1] == 1.0
    told = json.loads(last)
    assert told["path"] == str(folder / "mine.safetensors")
    assert told["structures"] == ["spleen", "liver"]
    assert (folder / "mine.safetensors").read_bytes() == (
        tmp_path / "mine.safetensors"
    ).read_bytes()
    # Once more does no harm, another file of that name is refused.
    assert main(["models", "add", str(tmp_path / "mine.safetensors")]) == 0
    save_file({"prompt": torch.ones(9)}, tmp_path / "mine.safetensors", {"format": "other"})
    assert main(["models", "add", str(tmp_path / "mine.safetensors")]) != 0


def test_an_added_model_is_found_whatever_its_suffix(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(tmp_path / "mine.bin")
    assert main(["models", "add", str(tmp_path / "mine.bin")]) == 0
    assert (folder / "mine.safetensors").is_file() and located(
        "mine"
    ) == folder / "mine.safetensors"
    assert main(["models", "remove", "mine.safetensors"]) == 0


def test_an_added_model_does_not_take_the_name_of_one_that_comes_with_the_program(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_adapted(tmp_path / "hippocampus.safetensors")
    assert main(["models", "add", str(tmp_path / "hippocampus.safetensors")]) == 2
    assert "hippocampus is a model that comes with the program" in capsys.readouterr().err
    assert not folder.exists()


def test_inspect_tells_the_license_of_a_starter_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "inspect", "hippocampus"]) == 0
    assert "license    CC-BY-SA-4.0\n" in capsys.readouterr().out


def test_a_file_that_is_no_model_is_not_added(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert main(["models", "add", str(tmp_path / "other.safetensors")]) != 0
    assert "other.safetensors" in capsys.readouterr().err
    assert not folder.exists()


def test_a_fetch_tells_its_progress_and_its_paths_as_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lite_medsam.pth").write_bytes(WEIGHTS)
    given = ["models", "fetch", "lite-medsam", "--from-folder", str(tmp_path), "--json"]
    assert main(given) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"lite-medsam": str(folder / "lite_medsam.pth")}
