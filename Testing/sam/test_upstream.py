"""The model classes load whether torchvision is missing, broken or whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BUILD = """
import sys
from SAMAutoSegLib.sam.upstream import ImageEncoderViT, PromptEncoder, TwoWayTransformer
import torch
TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=8)
print(sorted(n for n in sys.modules if n.split(".")[0] in ("segment_anything", "torchvision")))
"""
MISSING = "raise ModuleNotFoundError(\"No module named 'torchvision'\", name='torchvision')"
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def run(code: str, folder: Path, torchvision: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python with this torchvision (files by name) found before any other."""
    for name, text in torchvision.items():
        path = folder / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("torchvision", [MISSING, BROKEN], ids=["missing", "broken"])
def test_the_classes_load_without_a_working_torchvision(torchvision: str, tmp_path: Path) -> None:
    files = {"__init__.py": torchvision}
    assert run("import segment_anything", tmp_path, files).returncode != 0

    result = run(BUILD, tmp_path, files)

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"  # nothing half initialized stays behind


def test_a_package_that_is_imported_already_is_used(tmp_path: Path) -> None:
    whole = {
        "__init__.py": "",
        "ops/__init__.py": "",
        "ops/boxes.py": "batched_nms = box_area = None",
        "transforms/__init__.py": "",
        "transforms/functional.py": "resize = to_pil_image = None",
    }
    code = "import segment_anything\n" + BUILD
    code += "assert ImageEncoderViT is segment_anything.modeling.ImageEncoderViT\n"
    result = run(code, tmp_path, whole)
    assert result.returncode == 0, result.stderr


def test_the_real_package_can_be_imported_later(tmp_path: Path) -> None:
    result = run(BUILD + "import segment_anything", tmp_path, {"__init__.py": BROKEN})
    assert "torchvision::nms" in result.stderr  # its own error, not one of ours


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    hide = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'segment_anything' else find(n, *a)\n"
    )
    result = run(hide + BUILD, tmp_path, {})
    assert "pip install segment-anything" in result.stderr
