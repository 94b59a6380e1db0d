import numpy as np
import pytest

from SAMAutoSegLib.engine.volumes import as_volume
from SAMAutoSegLib.errors import SAMAutoSegError

NAN, INF = float("nan"), float("inf")
FACTS = {
    "name": "scan",
    "size": [4, 3, 2],
    "spacing": [1.0, 1.0, 1.0],
    "origin": [0.0, 0.0, 0.0],
    "direction": np.eye(3).ravel().tolist(),
}


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [1, NAN, 1]},
        {"spacing": [1, INF, 1]},
        {"origin": [INF, 0, 0]},
        {"direction": [1, 0, 0, 0, NAN, 0, 0, 0, 1]},
    ],
)
def test_a_geometry_that_is_no_numbers_is_refused(change: dict[str, list[float]]) -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    assert as_volume(FACTS, array).grid.size == (4, 3, 2)
    with pytest.raises(SAMAutoSegError, match="scan has the spacing .* place no voxels"):
        as_volume({**FACTS, **change}, array)
