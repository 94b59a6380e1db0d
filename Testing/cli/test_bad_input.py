"""What a user may hand over by mistake: one line, nothing run, nothing written."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SAMAutoSegLib.adapt import adapted_file
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.sam import catalog

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good image, labels and base, and an empty one for the output."""
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    values = np.random.default_rng(0).integers(-100, 100, (4, 20, 24), dtype=np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "image.nii.gz"))
    labels = np.zeros(values.shape, np.uint8)
    labels[1:3, 5:15, 5:15] = 1
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "labels.nii.gz"))
    (tmp_path / "out").mkdir()
    return tmp_path


def call(files: Path, **instead: Path) -> list[str]:
    given = {
        "image": files / "image.nii.gz",
        "labels": files / "labels.nii.gz",
        "base": files / "checkpoint.pth",
        "output": files / "out" / "model.safetensors",
    }
    arguments = ["finetune", "--device", "cpu", "--slices", "1,2", "--set", "steps=2"]
    for name, path in {**given, **instead}.items():
        arguments += [f"--{name}", str(path)]
    return arguments


def error(arguments: list[str], capfd: Capture) -> str:
    """What the process says, libraries written in C included: one line."""
    capfd.readouterr()
    assert main(arguments) == 2
    told = capfd.readouterr()
    assert told.out == "" and told.err.count("\n") == 1, told.err
    assert told.err.startswith("samautoseg: error: ")
    return told.err


def series(folder: Path, uid: str, positions: list[float]) -> None:
    folder.mkdir(exist_ok=True)
    for number, z in enumerate(positions):
        image = sitk.GetImageFromArray(np.full((1, 6, 7), number, np.int16))
        for tag, value in (
            ("0008|0060", "CT"),
            ("0020|000e", uid),
            ("0008|0018", f"{uid}.{number + 1}"),
            ("0020|0013", str(number + 1)),
            ("0020|0037", "1\\0\\0\\0\\1\\0"),
            ("0020|0032", f"0\\0\\{z}"),
        ):
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}.{number}.dcm"))
        writer.Execute(image)


def cut(path: Path, source: Path) -> None:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])


IMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, files: None, "does not exist"),
    "empty.nii.gz": (lambda path, files: path.write_bytes(b""), "damaged file"),
    "cut.nii.gz": (lambda path, files: cut(path, files / "image.nii.gz"), "is cut off"),
    "text.nii.gz": (lambda path, files: path.write_text("no image"), "cannot read"),
    "folder": (lambda path, files: path.mkdir(), "no DICOM image in the folder"),
    "mixed": (
        lambda path, files: [series(path, uid, [0, 2]) for uid in ("1.2.3", "1.2.4")],
        "holds 2 DICOM series",
    ),
    "gap": (lambda path, files: series(path, "1.2.3", [0, 2, 4, 8]), "a file is missing"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_read(files: Path, capfd: Capture, name: str) -> None:
    make, said = IMAGES[name]
    make(files / name, files)
    told = error(call(files, image=files / name), capfd)
    assert str(files / name) in told and said in told
    assert not list((files / "out").iterdir())


@pytest.mark.parametrize("name", ["missing", "empty.nii.gz", "cut.nii.gz", "text.nii.gz"])
def test_labels_that_cannot_be_read(files: Path, capfd: Capture, name: str) -> None:
    make, said = IMAGES[name]
    make(files / name, files)
    told = error(call(files, labels=files / name), capfd)
    assert str(files / name) in told and said in told


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_weights_that_run_code_are_refused_unexecuted(
    files: Path, capfd: Capture, kind: str
) -> None:
    harm = Harm(files / "executed")
    if kind == "pickle":
        (files / "weights.pth").write_bytes(pickle.dumps(harm))
    else:
        torch.save({"weight": harm}, files / "weights.pth")
    told = error(call(files, base=files / "weights.pth"), capfd)
    assert "could run code: refused, nothing of it was run" in told
    assert not harm.path.exists()


def test_weights_that_are_none_or_half(files: Path, capfd: Capture) -> None:
    (files / "text.pth").write_text("these are no weights")
    assert "text.pth is not a checkpoint" in error(call(files, base=files / "text.pth"), capfd)
    cut(files / "half.pth", files / "checkpoint.pth")
    assert "half.pth is damaged or cut short" in error(call(files, base=files / "half.pth"), capfd)
    assert main(call(files)) == 0
    model = files / "out" / "model.safetensors"
    output = files / "new.safetensors"
    assert "model.safetensors is" in error(call(files, base=model, output=output), capfd)


def test_fetched_weights_that_were_damaged_since(
    files: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(call(files)) == 0
    model = files / "out" / "model.safetensors"
    digest = adapted_file.read_card(model).backbone_sha256
    entry = catalog.entries()[0]
    values = {**vars(entry), "sha256": digest}
    monkeypatch.setattr(catalog, "entries", lambda: (catalog.CatalogEntry(**values),))
    entry.local_path.parent.mkdir(parents=True)
    cut(entry.local_path, files / "checkpoint.pth")
    image, output = str(files / "image.nii.gz"), str(files / "out" / "found.nii.gz")
    told = error(["segment", image, "-m", str(model), "-o", output, "--device", "cpu"], capfd)
    assert f"{entry.local_path} is damaged" in told and "models fetch lite-medsam" in told


def test_a_disk_that_gets_full_leaves_the_former_model(
    files: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(call(files)) == 0
    model = files / "out" / "model.safetensors"
    before = model.read_bytes()

    def full(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        told = error(call(files), capfd)
    assert f"cannot write {model}: No space left on device; free some space" in told
    assert "the same command with --resume writes it" in told
    assert model.read_bytes() == before
    assert len(list((files / "out").iterdir())) == 2
    model.unlink()
    assert main([*call(files), "--resume"]) == 0
    assert list((files / "out").iterdir()) == [model]
