"""The JSON files of the top-level folder ``Resources``, wherever this library lies.

In a checkout the folder stands beside the package. The wheel (pyproject.toml) and Slicer's
build (CMakeLists.txt) put it inside the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def resource(name: str) -> Path:
    """Return the path of a file of ``Resources``.

    Raises:
        FileNotFoundError: it is not there, so the installation is incomplete.
    """
    for folder in (_PACKAGE, _PACKAGE.parent):
        path = folder / "Resources" / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"Resources/{name} is missing beside {_PACKAGE}")
