import json
from collections.abc import Callable
from pathlib import Path

import pytest
from SAMAutoSegPanels.ModelLibrary import (
    ModelEntry,
    ModelLibrary,
    checkedName,
    readHeader,
    readStructures,
    suggestedName,
)

from SAMAutoSegLib.errors import SAMAutoSegError

CATALOG = Path(__file__).parents[2] / "Resources" / "ModelCatalog.json"


@pytest.fixture
def library(tmp_path: Path) -> ModelLibrary:
    return ModelLibrary(tmp_path / "models", [tmp_path / "shipped"], CATALOG)


def backbone(library: ModelLibrary, name: str = "lite-medsam", whole: bool = True) -> Path:
    entry = next(e for e in library.catalog if e["name"] == name)
    library.folder.mkdir(exist_ok=True)
    path = library.folder / entry["file_name"]
    with path.open("wb") as stream:
        stream.truncate(entry["bytes"] if whole else 1000)
    return path


def test_an_empty_computer_has_no_models_and_is_offered_litemedsam_first(
    library: ModelLibrary,
) -> None:
    assert library.models() == []
    assert not library.hasDefaultBackbone()
    entry, words = library.offers()[0]
    assert entry["name"] == "lite-medsam"
    assert "39 MB" in words and "Apache-2.0" in words


def test_a_trained_model_tells_what_its_header_says(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    save_model("Organs.safetensors", ("liver", "spleen"))
    (entry,) = library.models()
    assert (entry.name, entry.version, entry.structures) == ("Organs", 1, ("liver", "spleen"))
    assert (entry.created, entry.score, entry.slices) == ("2026-08-24", 0.91, 3)
    assert entry.summary == "liver, spleen · LiteMedSAM · 2026-08-24 · 3 slices · Dice 0.91"


def test_trained_models_come_before_plain_ones_which_say_what_they_need(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    backbone(library)
    save_model("Zebra.safetensors")
    trained, plain = library.models()
    assert trained.name == "Zebra"
    assert plain.name == "LiteMedSAM" and plain.structures == ()
    assert "knows no structures" in plain.summary and "Retrain" in plain.summary
    assert library.hasDefaultBackbone()


def shipped(library: ModelLibrary, path: Path) -> Path:
    folder = library.folder.parent / "shipped"
    folder.mkdir(exist_ok=True)
    return path.rename(folder / path.name)


def test_of_the_models_that_come_along_the_best_is_first_after_the_user_s_own(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    for name, score in (("abdomen", 0.34), ("heart", 0.88), ("hippocampus", 0.83), ("new", None)):
        shipped(library, save_model(f"{name}.safetensors", provenance={"held_out_dice": score}))
    names = [entry.name for entry in library.models()]
    assert names == ["heart", "hippocampus", "abdomen", "new"]
    save_model("mine.safetensors")
    assert library.models()[0].name == "mine"


def test_a_model_that_comes_along_is_for_the_user_to_choose(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    """The one of another organ would find nonsense at the first click."""
    shipped(library, save_model("heart.safetensors"))
    assert library.suggested() is None
    assert named(library.suggested("heart.safetensors")) == "heart"  # used last
    backbone(library)
    assert named(library.suggested()) == "LiteMedSAM"
    save_model("mine.safetensors")
    assert named(library.suggested()) == "mine"


def test_the_model_used_last_is_suggested_while_it_is_there(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    save_model("a.safetensors")
    last = save_model("b.safetensors")
    assert named(library.suggested(last.name)) == "b"
    last.unlink()
    assert named(library.suggested(last.name)) == "a"
    library.folder.joinpath("a.safetensors").write_bytes(b"damaged")
    assert library.suggested() is None


def named(entry: ModelEntry | None) -> str:
    assert entry is not None
    return entry.name


def test_what_a_model_was_made_for_and_what_not_is_told(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    starter = {"data": "Sunnybrook", "data_license": "CC0-1.0", "use": "MRI", "not_for": "CT"}
    shipped(library, save_model("heart.safetensors", provenance=starter))
    refined = {"source": {"method": "blo-sam", "provenance": starter}}
    save_model("mine.safetensors", provenance=refined)
    mine, heart = library.models()
    assert heart.summary.endswith("\nMade for: MRI.\nNot for: CT.")
    # What it goes on from is in it still, but may serve for something else.
    for entry in (mine, heart):
        assert (entry.data, entry.license) == ("Sunnybrook", "CC0-1.0")
    assert (mine.use, mine.notFor) == ("", "") and "Made for" not in mine.summary


def test_a_download_that_was_cut_is_told_and_offered_again(library: ModelLibrary) -> None:
    backbone(library, whole=False)
    (entry,) = library.models()
    assert "download it again" in entry.problem
    assert not library.hasDefaultBackbone()
    assert library.offers()[0][0]["name"] == "lite-medsam"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_damaged_files_are_listed_with_the_reason_and_hide_no_other(
    library: ModelLibrary, save_model: Callable[..., Path], content: bytes
) -> None:
    good = save_model("Good.safetensors")
    good.with_name("Bad.safetensors").write_bytes(content)
    found = {entry.name: entry.problem for entry in library.models()}
    assert found["Good"] == ""
    if content:  # an empty one is being written at this moment
        assert "damaged" in found["Bad"]
    else:
        assert "Bad" not in found


def test_keeping_a_model_of_the_same_name_makes_the_next_version(
    library: ModelLibrary, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    first = save_model("Liver.safetensors")
    trained = tmp_path / "model.safetensors"
    trained.write_bytes(first.read_bytes())
    kept = library.keep(trained, "Liver")
    assert kept.path.name == "Liver v2.safetensors" and kept.version == 2
    assert kept.title == "Liver v2"
    assert not trained.exists() and first.exists()
    assert [entry.version for entry in library.models()] == [2]
    assert [entry.version for entry in library.versions(kept)] == [2, 1]


def test_restoring_an_earlier_version_loses_none(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    save_model("Liver.safetensors", ("liver",))
    save_model("Liver v2.safetensors", ("liver", "tumor"))
    old = library.versions(library.models()[0])[1]
    restored = library.restore(old)
    assert restored.version == 3 and restored.structures == ("liver",)
    assert restored.path.read_bytes() == old.path.read_bytes()
    assert len(library.versions(restored)) == 3


def test_two_slicers_that_keep_at_once_get_different_versions(
    library: ModelLibrary,
    save_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = save_model("Liver.safetensors")
    trained = tmp_path / "model.safetensors"
    trained.write_bytes(first.read_bytes())
    # The other Slicer took version 2 after this one had looked.
    monkeypatch.setattr(ModelLibrary, "nextVersion", lambda self, name: 2)
    taken = save_model("Liver v2.safetensors", ("other",))
    before = taken.read_bytes()
    assert library.keep(trained, "Liver").version == 3
    assert taken.read_bytes() == before


def test_a_model_that_vanished_while_it_was_offered_says_so(
    library: ModelLibrary, tmp_path: Path
) -> None:
    with pytest.raises(SAMAutoSegError, match="deleted or moved"):
        library.keep(tmp_path / "gone.safetensors", "Liver")
    assert library.models() == []
    with pytest.raises(SAMAutoSegError, match="deleted or moved"):
        readStructures(tmp_path / "gone.safetensors")


def test_a_full_disk_leaves_no_version_behind(
    library: ModelLibrary,
    save_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = tmp_path / "model.safetensors"
    trained.write_bytes(save_model("Liver.safetensors").read_bytes())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("SAMAutoSegPanels.ModelLibrary.shutil.copyfile", full)
    with pytest.raises(SAMAutoSegError, match="No space left"):
        library.keep(trained, "Liver")
    assert trained.exists()
    assert [path.name for path in library.folder.iterdir()] == ["Liver.safetensors"]


def test_a_file_is_read_again_only_where_it_has_changed(
    library: ModelLibrary, save_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def count(path: Path) -> dict[str, str]:
        read.append(path.name)
        return readHeader(path)

    monkeypatch.setattr("SAMAutoSegPanels.ModelLibrary.readHeader", count)
    save_model("Liver.safetensors")
    spleen = save_model("Spleen.safetensors")
    for _ in range(9):
        library.models()
        assert library.find("Liver.safetensors") is not None
    assert sorted(read) == ["Liver.safetensors", "Spleen.safetensors"]
    save_model("Spleen.safetensors", ("spleen", "liver"))
    found = library.find("Spleen.safetensors")
    assert found is not None and found.structures == ("spleen", "liver")
    spleen.unlink()
    assert library.find("Spleen.safetensors") is None
    assert len(read) == 3


def test_a_model_is_found_in_the_folders_of_models_only(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    path = save_model("Liver.safetensors")
    assert library.find("Liver.safetensors") is not None
    for name in ("", ".", "Spleen.safetensors", f"../models/{path.name}", str(path)):
        assert library.find(name) is None


def test_models_that_come_with_the_program_cannot_be_removed(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    shipped(library, save_model("Heart.safetensors"))
    (entry,) = library.models()
    with pytest.raises(SAMAutoSegError, match="comes with"):
        library.remove(entry)
    assert entry.path.exists()


def test_a_model_kept_under_the_name_of_one_that_comes_with_the_program_gets_another_file(
    library: ModelLibrary, save_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = shipped(library, save_model("Heart.safetensors"))
    trained = save_model("trained.safetensors").rename(tmp_path / "trained.safetensors")
    kept = library.keep(trained, "Heart")
    assert kept.title == "Heart v2"
    assert library.find(kept.path.name) == kept
    assert library.find(path.name).path == path


def test_removing_deletes_one_version_and_brings_back_the_one_before(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    save_model("Liver.safetensors")
    save_model("Liver v2.safetensors")
    library.remove(library.models()[0])
    assert [entry.version for entry in library.models()] == [1]


@pytest.mark.parametrize("name", ["", "  ", "a/b", "con:", ".hidden", "x" * 101, "a\nb"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(SAMAutoSegError):
        checkedName(name)


def test_names_are_trimmed_and_lose_a_version_that_was_typed() -> None:
    assert checkedName("  Liver v3 ") == "Liver"
    assert checkedName("CT v2 organs") == "CT v2 organs"


def test_a_name_is_suggested_from_the_refined_model_or_the_structures(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    save_model("My organs v2.safetensors")
    (entry,) = library.models()
    assert suggestedName(["liver"], entry) == "My organs"
    assert suggestedName(["Liver", "spleen"], entry) == "My organs"
    assert suggestedName(["spleen"], entry) == "spleen"
    assert suggestedName(["liver", "spleen"]) == "liver, spleen"
    assert suggestedName(["a/b"]) == "ab"


def test_what_goes_on_from_a_starter_model_is_its_next_version(
    library: ModelLibrary, save_model: Callable[..., Path]
) -> None:
    shipped(library, save_model("left-ventricle.safetensors", ("left ventricle",)))
    (starter,) = library.models()
    name = suggestedName(["left ventricle"], starter)
    assert (name, library.nextVersion(name)) == ("left-ventricle", 2)


def test_structures_come_with_label_and_color(save_model: Callable[..., Path]) -> None:
    found = readStructures(save_model("Organs.safetensors", ("liver", "spleen")))
    assert [(s.label, s.name, s.color) for s in found] == [
        (1, "liver", (1.0, 0.0, 0.0)),
        (2, "spleen", (1.0, 0.0, 0.0)),
    ]


def test_the_header_is_what_the_library_writes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "real.safetensors"
    save_file({"a": torch.zeros(3)}, path, {"format": "x", "card": json.dumps({"b": 1})})
    assert readHeader(path) == {"format": "x", "card": '{"b": 1}'}
