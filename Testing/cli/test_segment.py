import json
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard, save_adapted
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.read import read_image, read_labels
from SAMAutoSegLib.images.selection import Roi
from SAMAutoSegLib.images.structure import standard_structures, structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.checkpoint import load_backbone
from SAMAutoSegLib.segment.cleanup import CleanUp
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import segment_volume

GRID = Grid((40, 30, 5), (0.8, 0.8, 5.0), (-12.5, 30.0, 100.0), np.diag([-1.0, -1.0, 1.0]))


@dataclass
class Case:
    """Files of one call, and what the library computes from them."""

    image: Path
    model: Path
    base: Path
    output: Path
    expected: Callable[..., np.ndarray]

    def arguments(self, *more: str) -> list[str]:
        files = [str(self.image), "-m", str(self.model), "-o", str(self.output)]
        return ["segment", *files, "--base", str(self.base), "--device", "cpu", *more]

    def labels(self) -> np.ndarray:
        return read_labels(self.output)[0].array


@pytest.fixture
def case(
    tiny_file: Path,
    tmp_path: Path,
    picture: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Case:
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    array = np.stack([picture(30, 40, seed=k) for k in range(5)]).astype(np.int16)
    image = tmp_path / "scan.nii.gz"
    write_volume(image, Volume(array, GRID, "scan"))
    backbone = load_backbone(tiny_file, device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AdaptedModel(backbone, 3, Adaptation()).eval()
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=Intensity("window", 0, 255),
        plane="axial",
        adaptation=model.adaptation,
        structures=tuple(standard_structures(["liver", "spleen"])),
        method="joint",
    )
    adapted = Adapted(model, card, backbone)
    save_adapted(tmp_path / "organs.safetensors", adapted)

    def expected(**options: Any) -> np.ndarray:
        return segment_volume(read_image(image), adapted, **options).labels

    output = tmp_path / "out" / "organs.seg.nrrd"
    return Case(image, tmp_path / "organs.safetensors", tiny_file, output, expected)


def report(case: Case, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(case.arguments("--json", *more)) == 0
    return json.loads(capsys.readouterr().out)


def error(case: Case, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line that a call fails with, which writes nothing."""
    capsys.readouterr()
    assert main(case.arguments(*more)) == 2
    told = capsys.readouterr()
    assert told.err.startswith("samautoseg: error: ") and told.err.count("\n") == 1
    assert not case.output.is_file()
    return told.err


def test_the_segmentation_lies_on_the_images_grid_with_names(case: Case) -> None:
    assert main(case.arguments()) == 0
    labels, structures = read_labels(case.output)
    assert labels.grid.same_as(GRID, tolerance=1e-5)
    assert [structure.name for structure in structures] == ["liver", "spleen"]
    assert structures[0].terminology
    assert np.array_equal(labels.array, case.expected())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_the_suffix_names_the_format(case: Case, suffix: str) -> None:
    case.output = case.output.with_name(f"organs{suffix}")
    assert main(case.arguments()) == 0
    assert np.array_equal(case.labels(), case.expected())


def test_the_file_says_where_it_comes_from(case: Case) -> None:
    assert main(case.arguments()) == 0
    image = sitk.ReadImage(str(case.output))
    said = {
        key.removeprefix("SAMAutoSeg_"): image.GetMetaData(key)
        for key in image.GetMetaDataKeys()
        if key.startswith("SAMAutoSeg_")
    }
    assert said["model"] == "organs.safetensors" and said["image"] == "scan.nii.gz"
    assert len(said["model_sha256"]) == len(said["backbone_sha256"]) == 64
    assert said["method"] == "joint" and said["backbone"] == "checkpoint.pth"
    assert said["version"] and said["date"].startswith("20")


def test_the_report_tells_what_was_done(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    told = report(case, capsys)
    assert told["slices"] == [0, 1, 2, 3, 4] and told["axis"] == "axial"
    assert told["device"] == "cpu" and told["precision"] in ("float32", "bfloat16")
    assert told["notes"] == [] and not told["cancelled"]
    steps = ("loading", "segmenting", "writing")
    assert told["seconds"]["total"] == pytest.approx(
        sum(told["seconds"][s] for s in steps), abs=0.01
    )
    voxels = np.bincount(case.labels().ravel(), minlength=3)
    for structure in told["structures"]:
        assert structure["voxels"] == voxels[structure["label"]] > 0
        assert structure["milliliters"] == pytest.approx(structure["voxels"] * 3.2 / 1000, abs=1e-3)


def test_without_json_a_person_can_read_it(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(case.arguments("--axis", "coronal")) == 0
    told = capsys.readouterr().out
    assert "liver" in told and " ml" in told and "30 coronal slices in" in told
    assert "Note: coronal slices, though the model was trained on axial ones" in told


def test_options_reach_the_library(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(case, capsys, "--slices", "1,3-4")["slices"] == [1, 3, 4]
    assert np.array_equal(case.labels(), case.expected(slices=[1, 3, 4]))
    assert report(case, capsys, "--roi", "3:30,:20,1:4")["slices"] == [1, 2, 3]
    assert np.array_equal(case.labels(), case.expected(roi=Roi((3, 30), (0, 20), (1, 4))))
    report(case, capsys, "--intensity=60,190", "--batch", "2")
    assert np.array_equal(case.labels(), case.expected(intensity=Intensity("window", 60, 190)))
    report(case, capsys, "--largest-component", "--remove-islands", "50", "--smooth", "5")
    cleanup = CleanUp(True, 50, 5)
    assert np.array_equal(case.labels(), case.expected(cleanup=cleanup))


def test_embeddings_are_kept_unless_it_is_forbidden(case: Case, tmp_path: Path) -> None:
    assert main(case.arguments("--no-cache")) == 0
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert main(case.arguments()) == 0
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 5


def interrupted_at(slice_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, count = Backbone.encode, 0

    def encode_and_interrupt(self: Backbone, *arguments: Any) -> torch.Tensor:
        nonlocal count
        if count == slice_number:
            signal.raise_signal(signal.SIGINT)
        count += 1
        return encode(self, *arguments)

    monkeypatch.setattr(Backbone, "encode", encode_and_interrupt)


def test_ctrl_c_writes_the_slices_that_are_done(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = case.expected()
    interrupted_at(1, monkeypatch)
    assert main(case.arguments("--json")) == 130
    told = capsys.readouterr()
    assert f"stopped; {case.output} holds 2 slices" in told.err
    assert json.loads(told.out)["cancelled"] and json.loads(told.out)["slices"] == [0, 1]
    assert np.array_equal(case.labels()[:2], whole[:2]) and not case.labels()[2:].any()


def test_ctrl_c_before_the_first_slice_writes_nothing(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case.output.parent.mkdir()
    case.output.write_text("before")
    apply = Intensity.apply

    def apply_and_interrupt(self: Intensity, array: np.ndarray) -> np.ndarray:
        signal.raise_signal(signal.SIGINT)
        return apply(self, array)

    monkeypatch.setattr(Intensity, "apply", apply_and_interrupt)
    assert main(case.arguments()) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert case.output.read_text() == "before"


def test_a_plain_sam_is_sent_to_finetune(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.model = case.base
    told = error(case, capsys)
    assert "knows no structures yet" in told and "samautoseg finetune" in told
    case.model = Path("lite-medsam")
    assert "lite-medsam is a plain SAM, which knows no structures" in error(case, capsys)


def test_an_output_that_cannot_be_written_is_noticed_before_anything_is_computed(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Backbone, "encode", None)
    case.output = tmp_path / "organs.png"
    assert "unknown file type" in error(case, capsys)
    (tmp_path / "folder.nrrd").mkdir()
    case.output = tmp_path / "folder.nrrd"
    assert "it is a folder" in error(case, capsys)
    case.output = case.base / "organs.nrrd"
    assert f"cannot write {case.output}" in error(case, capsys)


def test_the_image_itself_is_never_overwritten(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    before = case.image.read_bytes()
    case.output = case.image.parent / "." / case.image.name
    capsys.readouterr()
    assert main(case.arguments()) == 2
    assert "it is read by this very command" in capsys.readouterr().err
    assert case.image.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--slices", "3,9"], "slice 9 is out of range"),
        (["--slices", "3,3"], "given more than once"),
        (["--roi", "0:50,:,:"], "region i = 0:50 is empty or outside"),
        (["--axis", "up"], "unknown axis 'up'"),
        (["--intensity", "ct:heart"], "unknown CT window 'heart'"),
        (["--batch", "0"], "--batch 0: expected 1 or more"),
        (["--smooth", "-1"], "--smooth -1: expected 0 or more mm"),
        (["--smooth", "nan"], "--smooth nan: expected 0 or more mm"),
        (["--smooth", "1e12"], "--smooth 1e+12: expected 0 to 25 mm"),
        (["--axis", "coronal", "--smooth", "25"], "--smooth 25: expected 0 to 24 mm"),
        (["--remove-islands", "inf"], "--remove-islands inf: expected 0 or more mm3"),
        (["--device", "cuda:99"], "device 'cuda:99'"),
        (["--base", "none.pth"], "no checkpoint at none.pth"),
    ],
)
def test_a_wrong_option_is_one_line(
    case: Case, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in error(case, capsys, *more)


def test_a_missing_image_or_model_is_one_line(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    image, case.image = case.image, Path("none.nii.gz")
    assert "none.nii.gz does not exist" in error(case, capsys)
    assert not case.output.parent.exists()
    case.image, case.model = image, Path("none.safetensors")
    told = error(case, capsys)
    assert "no file and no model is named none.safetensors; models: abdomen-ct, hippocamp" in told


def test_a_model_cut_in_half_is_one_line(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    content = case.model.read_bytes()
    case.model.write_bytes(content[: len(content) // 2])
    assert "damaged or cut short" in error(case, capsys)


def test_a_model_of_another_backbone_is_one_line(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = torch.load(case.base, weights_only=True)
    tensors["mask_decoder.iou_token.weight"] += 1
    torch.save(tensors, case.base)
    assert "was trained on the backbone checkpoint.pth" in error(case, capsys)


def test_a_refinement_is_traced_slice_by_slice(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = case.output.parent / "trace.json"
    told = report(case, capsys, "--refine", "2", "--trace", str(file))
    assert np.array_equal(case.labels(), case.expected(refinement=Refinement(2)))
    trace = json.loads(file.read_text())["slices"]
    assert list(trace) == ["0", "1", "2", "3", "4"]
    for steps in trace.values():
        assert {step["structure"] for step in steps} == {"liver", "spleen"}
        assert sum(step["kept"] for step in steps) == 2
    assert told["refinement"]["first pass"] == 10
    capsys.readouterr()
    assert main(case.arguments("--refine", "2")) == 0
    made = told["refinement"]
    changed = 10 - made.get("first pass kept", 0)
    assert made.get("refinement kept", 0) == changed
    assert f"Refined: {changed} of 10 outlines" in capsys.readouterr().out
    assert sum(told["refinement"].values()) >= sum(len(steps) for steps in trace.values())


def test_what_prompts_a_refinement_can_be_chosen(case: Case) -> None:
    chosen = Refinement(1, 1, prompt="box-mask")
    options = ("--refine", "1", "--keep-iteration", "1", "--refine-with", "box-mask")
    assert main(case.arguments(*options)) == 0
    assert np.array_equal(case.labels(), case.expected(refinement=chosen))
    boxes_alone = case.expected(refinement=replace(chosen, prompt="box"))
    assert not np.array_equal(case.labels(), boxes_alone)


def test_the_first_pass_can_be_kept_though_it_was_refined(case: Case) -> None:
    assert main(case.arguments("--refine", "2", "--keep-iteration", "0")) == 0
    assert np.array_equal(case.labels(), case.expected())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--refine", "-1"), "refinement iterations -1: expected 0 or more"),
        (("--refine", "1", "--keep-iteration", "2"), "iteration 2 cannot be kept: .* 0 to 1"),
        (("--refine", "1", "--refine-with", "boxes"), "refinement with 'boxes': expected .* box-p"),
        (("--keep-iteration", "1"), "--keep-iteration needs --refine N"),
        (("--refine-with", "box-mask"), "--refine-with needs --refine N"),
    ],
)
def test_refinements_that_cannot_be_are_refused(
    case: Case, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert re.search(message, error(case, capsys, *options))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_uncertainty_is_written_on_the_images_grid_and_orders_the_slices(
    case: Case, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    file = case.output.parent / f"doubt{suffix}"
    told = report(case, capsys, "--uncertainty", str(file))
    doubt, image = read_image(file), read_image(case.image)
    assert doubt.grid.same_as(image.grid) and doubt.array.dtype == np.float32
    by_slice = {int(number): value for number, value in told["uncertainty_by_slice"].items()}
    sums = doubt.array.sum((1, 2))
    assert by_slice == pytest.approx(dict(enumerate(sums)), abs=0.06)
    assert told["check_first"] == sorted(by_slice, key=lambda number: -sums[number])


def test_a_person_is_told_the_tenth_of_the_slices_to_check_first(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = case.output.parent / "doubt.nrrd"
    assert main(case.arguments("--uncertainty", str(file))) == 0
    first = read_image(file).array.sum((1, 2)).argmax()
    assert f"Check first: {first}\n" in capsys.readouterr().out
    assert main(case.arguments()) == 0
    assert "Check first" not in capsys.readouterr().out


def test_uncertainty_never_overwrites_image_or_segmentation(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    before = case.image.read_bytes()
    assert "it is read by" in error(case, capsys, "--uncertainty", str(case.image))
    assert "it is written by" in error(case, capsys, "--uncertainty", str(case.output))
    assert "unknown file type" in error(case, capsys, "--uncertainty", "doubt.jpg")
    assert "is for segmentations" in error(case, capsys, "--uncertainty", "doubt.seg.nrrd")
    assert case.image.read_bytes() == before and not case.output.exists()


def corrected(case: Case, suffix: str = ".seg.nrrd", liver: int = 2, spleen: int = 1) -> Path:
    """Labels that hold the model's structures in slices 1 and 3, by other values than its own."""
    labels = np.zeros((5, 30, 40), np.uint8)
    labels[1:4:2, 5:15, 5:20] = liver
    labels[1:4:2, 18:28, 22:35] = spleen
    structures = [structure_named("spleen", spleen), structure_named("liver", liver)]
    file = case.image.parent / f"mended{suffix}"
    write_segmentation(file, labels, GRID, structures)
    return file


def test_corrected_slices_stay_and_the_others_follow_them(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    told = report(case, capsys, "--corrected", str(corrected(case)))
    assert told["corrected_slices"] == [1, 3] and told["slices"] == [0, 1, 2, 3, 4]
    mended = np.zeros((5, 30, 40), np.uint8)
    mended[:, 5:15, 5:20], mended[:, 18:28, 22:35] = 1, 2
    assert np.array_equal(case.labels()[1], mended[1])
    given = CorrectedSlices(mended, (1, 3))
    assert np.array_equal(case.labels(), case.expected(corrected=given))
    assert not np.array_equal(case.labels(), case.expected())


def test_values_count_where_corrected_labels_have_no_names(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = corrected(case, ".nii.gz", liver=1, spleen=2)
    told = report(case, capsys, "--corrected", str(file), "--corrected-slices", "3")
    assert told["corrected_slices"] == [3]
    assert np.array_equal(case.labels()[3], read_labels(file)[0].array[3])


def test_corrected_labels_that_cannot_be_are_refused(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(corrected(case))
    assert "needs --corrected LABELS" in error(case, capsys, "--corrected-slices", "3")
    wrong = error(case, capsys, "--corrected", file, "--corrected-slices", "7")
    assert "slice 7 is out of range" in wrong
    other = case.image.parent / "other.seg.nrrd"
    write_segmentation(other, np.ones((5, 30, 40), np.uint8), GRID, [structure_named("aorta", 1)])
    said = error(case, capsys, "--corrected", str(other))
    assert "none of the structures that the model knows (liver, spleen); there: aorta" in said
    small = case.image.parent / "small.seg.nrrd"
    grid = replace(GRID, size=(40, 30, 4), spacing=(1.0, 1.0, 9.0))
    write_segmentation(small, np.ones((4, 30, 40), np.uint8), grid, [structure_named("liver", 1)])
    assert "is not on the grid of" in error(case, capsys, "--corrected", str(small))


def test_corrected_labels_are_never_overwritten(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.output = corrected(case)
    before = case.output.read_bytes()
    assert main(case.arguments("--corrected", str(case.output))) == 2
    assert "it is read by this very command" in capsys.readouterr().err
    assert case.output.read_bytes() == before


@pytest.mark.parametrize("what", ["model", "base"])
def test_weights_are_never_overwritten(
    case: Case, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    path: Path = getattr(case, what)
    before = path.read_bytes()
    told = error(case, capsys, "--refine", "1", "--trace", str(path))
    assert "it is read by this very command" in told and path.read_bytes() == before


def test_corrected_labels_of_no_structure_are_told(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    file = corrected(case, ".nii.gz", liver=1, spleen=7)
    (note,) = report(case, capsys, "--corrected", str(file))["notes"]
    assert "7 (label 7) counts as background; known are 1 (liver), 2 (spleen)" in note


def test_an_empty_list_of_slices_is_not_taken_for_all(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot read slice ''" in error(case, capsys, "--slices", "")


def test_an_image_of_one_slice_is_segmented_as_that_slice(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = read_image(case.image)
    flat = Volume(volume.array[:, 7:8], replace(GRID, size=(40, 1, 5)), "flat")
    write_volume(case.image, flat)
    told = report(case, capsys)
    assert told["axis"] == "coronal" and told["slices"] == [0]
    assert any("trained on axial ones" in note for note in told["notes"])
    assert report(case, capsys, "--axis", "axial")["slices"] == [0, 1, 2, 3, 4]


def test_an_image_that_shows_nothing_is_told(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = read_image(case.image)
    write_volume(case.image, replace(volume, array=np.full((5, 30, 40), np.nan, np.float32)))
    (note,) = report(case, capsys)["notes"]
    assert "nothing can be seen in it" in note


def test_a_folder_of_a_models_name_does_not_hide_it(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    case.model.rename(folder / "organs.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organs").mkdir()
    case.model = Path("organs")
    assert main(case.arguments()) == 0


def test_a_model_of_the_users_folder_is_found_by_its_name(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    case.model.rename(folder / "organs.safetensors")
    case.model = Path("organs")

    assert main(case.arguments()) == 0

    assert case.output.exists()
