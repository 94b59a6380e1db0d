"""Whether Slicer's own classes are here, which all other tests of this folder need."""

import pytest


def test_a_scene_can_be_made() -> None:
    slicer = pytest.importorskip(
        "slicer",
        reason="needs Slicer's classes: pip install slicer-core (Linux on x86_64, Python < 3.13)",
        exc_type=ImportError,
    )
    assert slicer.vtkMRMLScene().GetNumberOfNodes() == 0
