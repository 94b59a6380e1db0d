import dataclasses
import hashlib
from pathlib import Path

import pytest

from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.catalog import CatalogEntry
from SAMAutoSegLib.sam.fetch import fetch_model

WEIGHTS = b"weights"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    return dataclasses.replace(catalog.get("lite-medsam"), sha256=digest, bytes=len(WEIGHTS))


def test_a_model_comes_from_a_folder_and_is_then_found_without_it(
    entry: CatalogEntry, tmp_path: Path
) -> None:
    (tmp_path / entry.file_name).write_bytes(WEIGHTS)
    assert fetch_model(entry, tmp_path) == entry.local_path
    assert entry.local_path.read_bytes() == WEIGHTS
    (tmp_path / entry.file_name).unlink()
    assert fetch_model(entry) == entry.local_path


def test_a_model_without_a_checksum_is_not_downloaded(entry: CatalogEntry) -> None:
    unknown = dataclasses.replace(entry, sha256=None)
    with pytest.raises(SAMAutoSegError, match="no checksum is known.*MedSAM"):
        fetch_model(unknown)


@pytest.mark.parametrize("name", [entry.name for entry in catalog.entries()])
def test_every_model_of_the_catalogue_says_where_it_comes_from(name: str) -> None:
    entry = catalog.get(name)
    in_package = entry.pypi is not None and entry.member is not None
    assert in_package != (entry.url is not None)
