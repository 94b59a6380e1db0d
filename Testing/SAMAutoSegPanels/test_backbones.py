"""The SAM of a model, in the user's folder, with and without a place in the catalog."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from SAMAutoSegPanels.ModelLibrary import ModelLibrary
from SAMAutoSegPanels.Session import Session

ROOT = Path(__file__).parents[2]
OWN_SAM = b"weights of a hospital's SAM"


@pytest.fixture
def session(tmp_path: Path, later: Any) -> Session:
    library = ModelLibrary(tmp_path / "models", [], ROOT / "Resources" / "ModelCatalog.json")
    made = Session(library, None, None, lambda: None, later)
    made.parameterNode = SimpleNamespace(model="liver.safetensors")
    return made


@pytest.fixture
def liver(save_model: Callable[..., Path]) -> Path:
    """A model learned on a SAM that the catalog does not have."""
    digest = hashlib.sha256(OWN_SAM).hexdigest()
    return save_model("liver.safetensors", backbone="hospital.pth", backbone_sha256=digest)


def test_a_model_learned_on_the_users_own_sam_finds_it_again(
    session: Session, liver: Path, later: Any
) -> None:
    changes: list[int] = []
    session.changed.connect(lambda: changes.append(1))
    (liver.parent / "another.pth").write_bytes(b"something else")
    own = liver.parent / "renamed.pth"
    own.write_bytes(OWN_SAM)
    assert session.backboneFile() is None and "Looking for" in session.backboneProblem
    while later.waiting:
        later.run()
        session.backboneFile()
    assert session.backboneFile() == own and session.backboneProblem == "" and changes
    assert session.clickFile() == liver
    assert session.loading == {"base": str(own), "device": None}


def test_a_large_file_is_read_once_and_anew_when_it_changes(
    session: Session, liver: Path, later: Any
) -> None:
    own = liver.parent / "hospital.pth"
    own.write_bytes(OWN_SAM)
    (liver.parent / "another.pth").write_bytes(b"not read, as the name fits worse")
    session.backboneFile()
    assert len(later.waiting) == 1
    later.run()
    assert session.backboneFile() == own and not later.waiting
    own.write_bytes(b"overwritten")
    os.utime(own, (1, 1))
    assert session.backboneFile() is None and later.waiting


def test_a_sam_that_is_nowhere_is_told_with_what_to_do(
    session: Session, liver: Path, save_model: Callable[..., Path]
) -> None:
    assert "hospital.pth, which is not on this computer: load" in session.backboneProblem
    known = session.library.defaultBackbone
    save_model("liver.safetensors", backbone=known["name"], backbone_sha256=known["sha256"])
    assert "download that too" in session.backboneProblem


def test_a_sam_of_the_catalog_needs_no_word_in_a_request(
    session: Session, liver: Path, save_model: Callable[..., Path]
) -> None:
    known = session.library.defaultBackbone
    save_model("liver.safetensors", backbone=known["name"], backbone_sha256=known["sha256"])
    with open(liver.parent / known["file_name"], "wb") as stream:
        stream.truncate(known["bytes"])
    assert session.backboneFile() == liver.parent / known["file_name"]
    assert session.loading["base"] is None and session.backboneProblem == ""


def test_a_plain_sam_is_its_own(session: Session, liver: Path) -> None:
    own = liver.parent / "hospital.pth"
    own.write_bytes(OWN_SAM)
    session.parameterNode.model = own.name
    assert session.backboneFile() == session.clickFile() == own
    assert session.loading["base"] is None and session.backboneProblem == ""


def test_a_chosen_model_whose_file_is_gone_is_named(session: Session, liver: Path) -> None:
    assert session.modelProblem == ""
    liver.unlink()
    assert session.modelProblem.startswith("liver.safetensors is not on this computer")
    session.parameterNode.model = ""
    assert session.modelProblem == ""
