import hashlib
import json
import re
from pathlib import Path

import pytest

from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.demo import sample
from SAMAutoSegLib.demo.sample import fetch_sample
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.resources import resource


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with one sample of two tiny files."""
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    files = [
        {
            "role": role,
            "member": f"tests/{role}.nii.gz",
            "sha256": hashlib.sha256(role.encode()).hexdigest(),
        }
        for role in ("image", "labels")
    ]
    entry = {"name": "tiny", "title": "Tiny", "package": "tiny==1.0", "archive": "sdist"}
    entry |= {"archive_bytes": 10, "license": "CC0-1.0", "remark": "Made up.", "files": files}
    path = tmp_path / "SampleData.json"
    path.write_text(json.dumps({"samples": [entry]}), encoding="utf-8")
    monkeypatch.setattr(sample, "resource", lambda name: path)


@pytest.mark.usefixtures("listed")
def test_a_sample_comes_from_a_folder_and_is_then_found_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    for role in ("image", "labels"):
        (folder / f"{role}.nii.gz").write_text(role)
    fetched = fetch_sample("tiny", folder)
    assert fetched.image.read_text() == "image"
    assert fetched.labels.read_text() == "labels"
    assert fetched.remark == "Made up."
    assert fetch_sample("tiny") == fetched


@pytest.mark.usefixtures("listed")
def test_the_command_tells_people_and_programs_where_the_files_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for role in ("image", "labels"):
        (tmp_path / f"{role}.nii.gz").write_text(role)
    assert main(["sample", "tiny", "--from-folder", str(tmp_path), "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert Path(reply["image"]).read_text() == "image"
    assert Path(reply["labels"]).read_text() == "labels"
    assert main(["sample", "tiny"]) == 0
    told = capsys.readouterr().out
    assert reply["image"] in told and "CC0-1.0" in told and "Made up." in told


def test_an_unknown_sample_is_named_with_those_there_are() -> None:
    with pytest.raises(SAMAutoSegError, match="'abdomen-mr' is unknown; there are: .*abdomen-ct"):
        fetch_sample("abdomen-mr")


def test_the_shipped_list_says_for_every_sample_what_the_demo_needs() -> None:
    for entry in json.loads(resource("SampleData.json").read_text(encoding="utf-8"))["samples"]:
        assert {file["role"] for file in entry["files"]} == {"image", "labels"}
        assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for file in entry["files"])
        assert re.fullmatch(r"[a-z-]+==[0-9.]+", entry["package"])
        assert entry["license"] and entry["remark"]
