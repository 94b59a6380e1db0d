"""``samautoseg finetune --method we-sam``."""

import argparse
import json
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import Adapted, ModelCard, read_card, save_adapted
from SAMAutoSegLib.adapt.adapted_model import Adaptation, AdaptedModel
from SAMAutoSegLib.cli import finetune_weak
from SAMAutoSegLib.cli.finetune import add_arguments
from SAMAutoSegLib.cli.given_training import settings_of
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.methods.we_sam_prompted import PromptedWeSAM
from SAMAutoSegLib.sam.checkpoint import load_backbone

GRID = Grid((40, 30, 6), (1.0, 1.0, 4.0), (-12.5, 30.0, 100.0), np.eye(3))
STRUCTURES = [structure_named("liver", 1), structure_named("spleen", 2)]

Capture = pytest.CaptureFixture[str]


@dataclass
class Case:
    """Files of one call."""

    folder: Path
    base: Path

    @property
    def output(self) -> Path:
        return self.folder / "adapted.safetensors"

    def weak(self, slices: dict) -> str:
        head = {"format": "SAMAutoSeg weak labels", "version": 1, "plane": "axial"}
        path = self.folder / "weak.json"
        path.write_text(json.dumps({**head, "slices": slices}))
        return str(path)

    def arguments(self, *more: str, start: bool = True) -> list[str]:
        model = ["--start", str(self.folder / "source.safetensors")] if start else []
        how = ["--base", str(self.base), "--device", "cpu", "--set", "steps=2"]
        how += ["--set", "views=1"] if start else []
        return [
            *("finetune", "--method", "we-sam", "--image", str(self.folder / "scan.nii.gz")),
            *(*model, *how, "--encoder-blocks", "1", "-o", str(self.output), *more),
        ]


@pytest.fixture
def case(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[1:4, 4:16, 4:16], labels[2:, 20:26, 5:35] = 1, 2
    image = np.random.default_rng(0).normal(0, 10, labels.shape) + 50 * labels
    write_volume(tmp_path / "scan.nii.gz", Volume(image.astype(np.int16), GRID, "scan"))
    write_segmentation(tmp_path / "labels.seg.nrrd", labels, GRID, STRUCTURES)
    backbone = load_backbone(tiny_file, device="cpu", precision=torch.float32)
    torch.manual_seed(1)
    model = AdaptedModel(backbone, 3, Adaptation())
    card = ModelCard(
        backbone=backbone.name,
        backbone_sha256=backbone.sha256,
        input=backbone.spec,
        intensity=Intensity("window", -50, 150),
        plane="axial",
        adaptation=model.adaptation,
        structures=tuple(STRUCTURES),
        method="joint",
    )
    save_adapted(tmp_path / "source.safetensors", Adapted(model, card, backbone))
    return Case(tmp_path, tiny_file)


def fails(arguments: list[str], capsys: Capture) -> str:
    assert main(arguments) != 0
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def test_a_model_adapts_to_an_image_with_boxes(case: Case, capsys: Capture) -> None:
    weak = case.weak(
        {"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}, "4": {"spleen": {"absent": True}}}
    )
    labels = str(case.folder / "labels.seg.nrrd")
    more = ("--weak", weak, "--labels", labels, "--held-out", "0,5", "--json")
    assert main(case.arguments(*more)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "we-sam" and report["steps"] == 2
    assert report["held_out_dice"] is not None
    card = read_card(case.output)
    assert card.provenance["weak_labels"] == ["boxes"]
    assert card.provenance["images"][0]["unlabeled"] == [2]  # the one of which something is said


def test_without_weak_labels_all_slices_are_adapted_to(case: Case, capsys: Capture) -> None:
    assert main(case.arguments()) == 0
    assert read_card(case.output).provenance["images"][0]["unlabeled"] == list(range(6))
    told = capsys.readouterr().out
    assert "liver, spleen, adapted by we-sam" in told and "agreement" in told


def test_of_many_slices_of_which_nothing_is_said_some_are_adapted_to(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_weak, "_MOST_UNNAMED", 3)
    assert main(case.arguments()) == 0
    assert read_card(case.output).provenance["images"][0]["unlabeled"] == [1, 3, 5]
    assert "3 of the 6 slices of scan" in capsys.readouterr().out
    assert main(case.arguments("--slices", "0-4")) == 0
    assert read_card(case.output).provenance["images"][0]["unlabeled"] == [0, 1, 2, 3, 4]


def test_a_plain_sam_adapts_with_prompts_and_stays_a_sam(case: Case, capsys: Capture) -> None:
    weak = case.weak({"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}})
    more = ("--weak", weak, "--structures", "liver,spleen")
    assert main(case.arguments(*more, start=False)) == 0
    told = capsys.readouterr().out
    assert "a SAM to be prompted, 2 steps" in told
    assert "own predictions" not in told  # those of a model that finds structures by itself
    assert load_backbone(case.output, device="cpu").family == "vit_b"


def test_ctrl_c_keeps_the_prompted_sam_of_the_steps_until_then(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = PromptedWeSAM.step

    def interrupted(self: PromptedWeSAM, number: int) -> dict[str, float]:
        if number == 0:
            signal.raise_signal(signal.SIGINT)
        return step(self, number)

    monkeypatch.setattr(PromptedWeSAM, "step", interrupted)
    weak = case.weak({"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}})
    more = ("--weak", weak, "--structures", "liver,spleen")
    assert main(case.arguments(*more, start=False)) == 130
    assert f"stopped at step 1; the best so far is in {case.output}" in capsys.readouterr().err
    assert load_backbone(case.output, device="cpu").family == "vit_b"


@pytest.mark.parametrize(
    ("method", "given", "budget"),
    [("we-sam", [], None), ("we-sam", ["--budget", "quick"], "quick"), ("joint", [], "standard")],
)
def test_we_sam_has_its_own_length_unless_a_budget_is_given(
    method: str, given: list[str], budget: str | None
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["--image", "i", "-o", "m", "--method", method, *given])
    assert settings_of(arguments).get("budget") == budget


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--method", "joint", "--weak", "none.json"),
            "--weak belongs to --method we-sam, not to joint",
        ),
        (("--labels", "x.nii.gz"), "learns from no --labels"),
        (("--held-out", "1"), "--held-out needs --labels"),
        (("--axis", "axial"), "those of the model given by --start"),
        (("--calibrate",), "--calibrate needs --labels"),
        (("--lora-rank", "8"), "no --lora-rank"),
        (("--set", "view_strength=2"), "setting view_strength=2: expected 0.0"),
        (("--slices", "1", "--slices", "2"), "2 --slices for 1 images"),
        (("--slices", "9"), "slice 9 is out of range"),
        (("--set", "learned=decoder"), "setting learned=decoder"),
        (("--weak", "none.json"), "none.json does not exist"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    case: Case, capsys: Capture, more: tuple[str, ...], words: str
) -> None:
    assert words in fails(case.arguments(*more), capsys)
    assert not case.output.exists()


def test_a_prompted_sam_needs_prompts_with_names(case: Case, capsys: Capture) -> None:
    error = fails(case.arguments(start=False), capsys)
    assert "name it with --start" in error and "--structures" in error


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--lora-rank", "8"), "no --lora-rank"),
        (("--set", "views=4"), "setting views=4: expected 1"),
        (("--set", "patience=0.4"), "setting patience=0.4: expected 0.0"),
        (("--set", "average=0.5"), "setting average=0.5: expected 0.0"),
    ],
)
def test_what_a_prompted_sam_makes_no_use_of_is_refused(
    case: Case, capsys: Capture, more: tuple[str, ...], words: str
) -> None:
    weak = ("--weak", case.weak({"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}}))
    arguments = case.arguments(*weak, "--structures", "liver,spleen", *more, start=False)
    assert words in fails(arguments, capsys)


@pytest.mark.parametrize("names", [",liver", "liver,Liver"])
def test_names_of_a_prompted_sam_are_each_given_once(
    case: Case, capsys: Capture, names: str
) -> None:
    weak = ("--weak", case.weak({"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}}))
    error = fails(case.arguments(*weak, "--structures", names, start=False), capsys)
    assert f"--structures {names}: expected names, each once" in error


def test_weak_labels_of_slices_that_are_left_out_are_told(case: Case, capsys: Capture) -> None:
    weak = ("--weak", case.weak({"2": {"liver": {"boxes": [[4, 4, 16, 16]]}}}))
    assert main(case.arguments(*weak, "--slices", "1,3")) == 0
    assert "in slices that --slices leaves out are not used: 2" in capsys.readouterr().out
    assert main(case.arguments(*weak, "--slices", "1,2")) == 0
    assert "not used" not in capsys.readouterr().out


def test_a_weak_label_outside_of_the_image_is_refused(case: Case, capsys: Capture) -> None:
    weak = case.weak({"2": {"liver": {"points": [[4, 70, 1]]}}})
    assert "lies outside of the image" in fails(case.arguments("--weak", weak), capsys)
