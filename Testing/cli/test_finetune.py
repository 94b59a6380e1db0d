import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAMAutoSegLib.adapt.adapted_file import load_adapted, read_card
from SAMAutoSegLib.cli.main import main
from SAMAutoSegLib.errors import SAMAutoSegError
from SAMAutoSegLib.images.intensity import Intensity
from SAMAutoSegLib.images.structure import Structure, structure_named
from SAMAutoSegLib.images.volume import Grid, Volume
from SAMAutoSegLib.images.write import write_segmentation, write_volume
from SAMAutoSegLib.methods import trainer
from SAMAutoSegLib.methods.method import Method
from SAMAutoSegLib.methods.registry import method_named
from SAMAutoSegLib.sam.backbone import Backbone

GRID = Grid((40, 30, 6), (1.0, 1.0, 4.0), (-12.5, 30.0, 100.0), np.diag([-1.0, -1.0, 1.0]))

Capture = pytest.CaptureFixture[str]


@dataclass
class Case:
    """Files of one call."""

    folder: Path
    base: Path

    @property
    def output(self) -> Path:
        return self.folder / "out" / "organs.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.output.with_name("organs.safetensors.training")

    def image(self, seed: int = 0) -> str:
        path = self.folder / f"scan{seed}.nii.gz"
        if not path.exists():
            values = np.random.default_rng(seed).normal(0, 10, (6, 30, 40))
            array = (values - 80 * (shapes(1, 2) == 1) + 90 * (shapes(1, 2) == 2)).astype(np.int16)
            write_volume(path, Volume(array, GRID, "scan"))
        return str(path)

    def labels(
        self, disc: int = 3, bar: int = 7, names: tuple[str, str] | None = None, grid: Grid = GRID
    ) -> str:
        structures: list[Structure] = []
        for value, name in sorted(zip((disc, bar), names or ("", ""), strict=True)):
            if value:
                structures.append(structure_named(name or f"label {value}", value))
        suffix = ".seg.nrrd" if names else ".nii.gz"
        path = self.folder / f"labels{disc}-{bar}-{grid.spacing[2]}{suffix}"
        write_segmentation(path, shapes(disc, bar), grid, structures)
        return str(path)

    def arguments(self, *more: str, slices: str = "1,3", pair: bool = True) -> list[str]:
        first = ["--image", self.image(), "--labels", self.labels(), "--slices", slices]
        how = ["--base", str(self.base), "--device", "cpu", "--set", "steps=4"]
        return ["finetune", *(first if pair else []), *how, "-o", str(self.output), *more]


def shapes(disc: int, bar: int) -> np.ndarray:
    """Nothing in slice 0, the bar only from slice 4 on."""
    labels = np.zeros((6, 30, 40), np.uint8)
    labels[1:4, 4:16, 4:16] = disc
    labels[2:, 20:26, 5:35] = bar
    return labels


@pytest.fixture
def case(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("SAMAUTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMAUTOSEG_DATA", str(tmp_path / "data"))
    return Case(tmp_path, tiny_file)


def report(arguments: list[str], capsys: Capture) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(arguments: list[str], capsys: Capture) -> str:
    """The one line that a call fails with."""
    capsys.readouterr()
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("samautoseg: error: ") and told.err.count("\n") == 1
    assert told.out == ""
    return told.err


def learned(case: Case) -> dict[str, torch.Tensor]:
    return load_adapted(case.output, base=case.base, device="cpu").model.learned_state()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("method", ["blo-sam", "joint"])
def test_the_model_file_says_what_it_learned_from_what(case: Case, method: str) -> None:
    assert main(case.arguments("--method", method, "--seed", "5", "--lora-rank", "2")) == 0
    card = read_card(case.output)
    assert card.method == method and card.settings["steps"] == 4 and card.settings["seed"] == 5
    assert [(s.label, s.name) for s in card.structures] == [(3, "label 3"), (7, "label 7")]
    assert card.plane == "axial" and card.adaptation.lora_rank == 2
    assert card.backbone == "checkpoint.pth" and len(card.backbone_sha256) == 64
    (image,) = card.provenance["images"]
    assert image["name"] == "scan0" and image["slices"] == [1, 3] and len(image["sha256"]) == 64
    assert card.provenance["held_out_dice"] is None
    assert not case.checkpoint.exists()


def test_auto_sam_learns_the_head_that_is_asked_for(case: Case, capsys: Capture) -> None:
    chosen = ("--method", "auto-sam", "--set", "head=auto-linear")
    assert main(case.arguments(*chosen)) == 0
    card = read_card(case.output)
    assert card.adaptation.head == card.settings["head"] == "auto-linear"
    assert not any("transformer" in name or "prompt" in name for name in learned(case))
    assert main(case.arguments(*chosen, "--lora-rank", "2")) == 2
    assert "LoRA rank 2: expected 0" in capsys.readouterr().err


def test_a_training_goes_on_from_a_model_with_a_structure_more(case: Case, capsys: Capture) -> None:
    former = case.folder / "former.safetensors"
    show = "8,22"
    first = ("--axis", "coronal", "--structures", "3=disc", "-o", str(former))
    assert main(case.arguments(*first, slices=show)) == 0
    then = ("--start", str(former), "--structures", "3=disc,7=bar")
    told = report(case.arguments(*then, slices=show), capsys)
    assert told["structures"] == ["disc", "bar"]
    assert told["notes"][0].endswith("for disc, and began anew for bar")
    card = read_card(case.output)
    assert card.plane == "coronal" and card.provenance["source"]["method"] == "blo-sam"
    assert "leave it out" in error(case.arguments("--start", str(former), "--side", "448"), capsys)


def test_a_person_reads_what_was_learned_and_that_there_is_no_score(
    case: Case, capsys: Capture
) -> None:
    assert main(case.arguments("--structures", "3=spleen,7=liver")) == 0
    told = capsys.readouterr().out
    assert "spleen, liver, learned from 2 slices by blo-sam" in told
    assert "4 steps (all)" in told and "no held-out score: no slice was held out" in told


def test_the_report_tells_steps_score_and_notes(case: Case, capsys: Capture) -> None:
    told = report(case.arguments("--held-out", "4,5", "--structures", "3,7", slices="1"), capsys)
    assert told["model"] == str(case.output) and told["method"] == "blo-sam"
    assert told["steps"] == 4 and 1 <= told["best_step"] <= 4 and told["stopped"] is None
    assert 0 <= told["held_out_dice"] <= 1
    assert read_card(case.output).provenance["held_out_dice"] == told["held_out_dice"]
    by_structure = told["held_out_dice_by_structure"]
    assert "label 7" in by_structure  # of label 3 nothing is in these slices
    mean = sum(by_structure.values()) / len(by_structure)
    assert mean == pytest.approx(told["held_out_dice"], abs=1e-3)
    assert any("one slice cannot be split" in note for note in told["notes"])
    assert any("no labeled slice shows label 7" in note for note in told["notes"])
    assert told["seconds"].keys() == {"encoding", "training", "scoring"}


def test_held_out_slices_train_nothing(case: Case) -> None:
    assert main(case.arguments()) == 0
    without = learned(case)
    assert main(case.arguments("--held-out", "4")) == 0
    assert same(learned(case), without)


def test_without_slices_all_that_hold_a_label_are_learned_from(case: Case) -> None:
    pair = ["--image", case.image(), "--labels", case.labels()]
    assert main(case.arguments(*pair, pair=False)) == 0
    assert read_card(case.output).provenance["images"][0]["slices"] == [1, 2, 3, 4, 5]
    assert main(case.arguments(*pair, "--structures", "3", pair=False)) == 0
    assert read_card(case.output).provenance["images"][0]["slices"] == [1, 2, 3]


def test_several_volumes_each_with_slices_of_their_own(case: Case) -> None:
    second = ["--image", case.image(1), "--labels", case.labels(), "--slices", "2,4-5"]
    held_out = ["--held-out", "5", "--held-out", "1"]
    assert main(case.arguments(*second, *held_out)) == 0
    found = read_card(case.output).provenance
    assert [i["name"] for i in found["images"]] == ["scan0", "scan1"]
    assert [i["slices"] for i in found["images"]] == [[1, 3], [2, 4, 5]]
    assert [i["slices"] for i in found["held_out"]] == [[5], [1]]


def test_a_volume_may_be_held_out_whole_or_not_at_all(case: Case) -> None:
    pairs = ["--slices", "1,3", "--image", case.image(1), "--labels", case.labels()]
    chosen = ["--slices", "none", "--held-out", "none", "--held-out", "2-4"]
    first = ["--image", case.image(), "--labels", case.labels()]
    assert main(case.arguments(*first, *pairs, *chosen, pair=False)) == 0
    found = read_card(case.output).provenance
    assert [i["slices"] for i in found["images"] if i["slices"]] == [[1, 3]]
    assert [i["slices"] for i in found["held_out"] if i["slices"]] == [[2, 3, 4]]
    assert found["held_out_dice"] is not None


def test_structures_of_one_name_have_to_be_told_apart(case: Case, capsys: Capture) -> None:
    labels = case.labels(1, 2, ("kidney", "kidney"))
    pair = ["--image", case.image(), "--labels", labels, "--slices", "2"]
    told = error(case.arguments(*pair, "--structures", "kidney", pair=False), capsys)
    assert "'kidney' is several in the first labels: give its value; there: 1 (kidney), 2" in told
    told = error(case.arguments(*pair, pair=False), capsys)
    assert "1 and 2 are both named 'kidney': tell them apart" in told
    assert main(case.arguments(*pair, "--structures", "1=a,2=b", pair=False)) == 0
    assert [s.name for s in read_card(case.output).structures] == ["a", "b"]


def test_labels_may_be_cropped_to_a_part_of_the_image(case: Case, tmp_path: Path) -> None:
    def weights(labels: str) -> dict[str, torch.Tensor]:
        pair = ["--image", case.image(), "--labels", labels, "--slices", "3"]
        assert main(case.arguments(*pair, pair=False)) == 0
        return learned(case)

    origin = tuple((GRID.ijk_to_lps @ [2, 3, 1, 1])[:3].tolist())
    grid = Grid((38, 25, 4), GRID.spacing, origin, GRID.direction)
    named = [structure_named(f"label {value}", value) for value in (3, 7)]
    write_segmentation(tmp_path / "c.nii.gz", shapes(3, 7)[1:5, 3:28, 2:].copy(), grid, named)
    assert same(weights(str(tmp_path / "c.nii.gz")), weights(case.labels()))


def test_a_segment_that_another_covers_is_told_and_can_be_learned_whole(
    case: Case, tmp_path: Path, capsys: Capture, write_layers: Callable[..., None]
) -> None:
    organ, lesion = (shapes(1, 0) == 1).astype(np.uint8), np.zeros_like(shapes(1, 0))
    lesion[1:4, 5:9, 5:9] = 1
    path = tmp_path / "x.seg.nrrd"
    write_layers(path, [organ, lesion], [("organ", 1, 0), ("lesion", 1, 1)], GRID)
    pair = ["--image", case.image(), "--labels", str(path), "--slices", "2"]
    assert main(case.arguments(*pair, pair=False)) == 0
    assert "48 voxels of organ lie under a later segment" in capsys.readouterr().out
    assert main(case.arguments(*pair, "--structures", "organ", pair=False)) == 0
    assert "lie under" not in capsys.readouterr().out
    covered = learned(case)
    write_layers(path, [organ], [("organ", 1, 0)], GRID)
    assert main(case.arguments(*pair, pair=False)) == 0
    assert same(learned(case), covered)


def test_named_structures_of_several_files_are_matched_by_name(case: Case) -> None:
    names = ("spleen", "liver")

    def weights(disc: int, bar: int) -> dict[str, torch.Tensor]:
        first = ["--image", case.image(), "--labels", case.labels(1, 2, names), "--slices", "2"]
        labels = case.labels(disc, bar, names)
        second = ["--image", case.image(1), "--labels", labels, "--slices", "3"]
        assert main(case.arguments(*first, *second, pair=False)) == 0
        return learned(case)

    assert same(weights(1, 2), weights(2, 1))


def test_structures_are_chosen_by_name_or_value_and_can_be_named(case: Case) -> None:
    labels = case.labels(1, 2, ("spleen", "liver"))
    pair = ["--image", case.image(), "--labels", labels, "--slices", "2"]
    for text, wanted in (
        ("Liver", [(2, "liver")]),
        ("2, spleen", [(2, "liver"), (1, "spleen")]),
        ("1=left kidney", [(1, "left kidney")]),
    ):
        assert main(case.arguments(*pair, "--structures", text, pair=False)) == 0
        card = read_card(case.output)
        assert [(s.label, s.name) for s in card.structures] == wanted
    assert card.structures[0].terminology


def test_settings_and_budgets_reach_the_training(case: Case) -> None:
    more = ["--budget", "thorough", "--set", "learning_rate=0.001", "--set", "split=half"]
    more += ["--axis", "coronal", "--intensity=-100,100"]
    assert main(case.arguments(*more, slices="5,22")) == 0
    card = read_card(case.output)
    assert card.settings["learning_rate"] == 0.001 and card.settings["split"] == "half"
    assert card.settings["steps"] == 4  # --set wins over --budget
    assert card.plane == "coronal" and card.intensity.to_json()["low"] == -100


def test_the_curve_is_a_picture(case: Case, tmp_path: Path) -> None:
    assert main(case.arguments("--curve", str(tmp_path / "curve.png"))) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_blocks_of_the_encoder_can_be_adapted(case: Case) -> None:
    assert main(case.arguments("--encoder-blocks", "1")) == 0
    assert any(name.startswith("tail.") for name in learned(case))


def test_embeddings_are_kept_unless_it_is_forbidden(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(case.arguments("--no-cache")) == 0
    before = learned(case)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert main(case.arguments()) == 0
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) >= 2
    monkeypatch.setattr(Backbone, "encode", None)
    assert main(case.arguments()) == 0
    assert same(learned(case), before)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Presses Ctrl-C during a step of the next training, once or twice."""

    def at(step: int, times: int = 1) -> None:
        kind: type[Method] = method_named("blo-sam")
        train = kind.step

        def step_and_interrupt(self: Method, number: int) -> dict[str, float]:
            if number == step:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return train(self, number)

        monkeypatch.setattr(kind, "step", step_and_interrupt)

    return at


def test_ctrl_c_keeps_the_best_and_resume_finishes_as_if_nothing_had_been(
    case: Case, capsys: Capture, interrupt: Callable[..., None]
) -> None:
    assert main(case.arguments()) == 0
    whole = learned(case)
    interrupt(1)
    capsys.readouterr()
    assert main(case.arguments("--json")) == 130
    told = capsys.readouterr()
    assert f"stopped at step 2; the best so far is in {case.output}" in told.err
    assert "--resume goes on" in told.err
    assert json.loads(told.out)["stopped"] == "cancelled"
    assert read_card(case.output).provenance["steps"] == 2
    assert case.checkpoint.exists()
    assert report(case.arguments("--resume"), capsys)["steps"] == 4
    assert same(learned(case), whole) and not case.checkpoint.exists()


def test_ctrl_c_keeps_the_best_where_the_rest_does_not_fit_on_the_disk(
    case: Case,
    capsys: Capture,
    interrupt: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object) -> None:
        raise SAMAutoSegError("cannot write it: no space left")

    monkeypatch.setattr(trainer, "save_state", full)
    interrupt(1)
    assert main(case.arguments("--json")) == 130
    told = capsys.readouterr()
    assert f"{case.checkpoint} could not be written, so it cannot be resumed" in told.err
    assert "no space left" in json.loads(told.out)["notes"][-1]
    assert read_card(case.output).provenance["steps"] == 2


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_former_model(
    case: Case, capsys: Capture, interrupt: Callable[..., None]
) -> None:
    assert main(case.arguments()) == 0
    before = case.output.read_bytes()
    interrupt(1, times=2)
    assert main(case.arguments()) == 130
    assert "interrupted; nothing half-written was kept" in capsys.readouterr().err
    assert case.output.read_bytes() == before
    assert [path.name for path in case.output.parent.iterdir()] == [case.output.name]


def test_ctrl_c_before_the_training_writes_nothing(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Intensity.apply

    def apply_and_interrupt(self: Intensity, array: np.ndarray) -> np.ndarray:
        signal.raise_signal(signal.SIGINT)
        return apply(self, array)

    monkeypatch.setattr(Intensity, "apply", apply_and_interrupt)
    assert main(case.arguments()) == 130
    assert "stopped before there was a result to keep" in capsys.readouterr().err
    assert not case.output.parent.exists()


def test_that_there_is_nothing_to_resume_is_said_before_anything_is_read(
    case: Case, capsys: Capture
) -> None:
    arguments = case.arguments("--resume")
    Path(case.image()).unlink()
    assert "nothing to resume" in error(arguments, capsys)


def test_an_image_in_place_of_labels_is_suspected(case: Case, capsys: Capture) -> None:
    arguments = case.arguments("--structures", "heart")
    values = np.arange(6 * 30 * 40).reshape(6, 30, 40) % 100
    write_volume(case.labels(), Volume(values.astype(np.uint8), GRID, "image"))
    told = error(arguments, capsys)
    assert "there: 1 (label 1), " in told and "10 (label 10) and 89 more (is it an" in told


def test_resume_needs_the_training_it_belongs_to(
    case: Case, capsys: Capture, interrupt: Callable[..., None]
) -> None:
    assert "nothing to resume" in error(case.arguments("--resume"), capsys)
    interrupt(1)
    assert main(case.arguments()) == 130
    kept = case.checkpoint.read_bytes()
    assert "other settings" in error(case.arguments("--resume", "--seed", "9"), capsys)
    assert "other samples" in error(case.arguments("--resume", slices="1,2"), capsys)
    assert case.checkpoint.read_bytes() == kept


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--held-out", "3"], "slice 3 of scan0 is both learned from and held out"),
        (["--held-out", "99"], "slice 99 is out of range"),
        (["--structures", "heart"], "'heart' is not in the first labels; there: 3 (label 3)"),
        (["--structures", "3,3"], "'label 3' is named twice"),
        (["--structures", "3=liver,7=Liver"], "3 and 7 are both named 'Liver'"),
        (["--structures", "3="], "'3=' has no name: expected VALUE=NAME"),
        (["--method", "boost"], "method 'boost': expected one of "),
        (["--budget", "endless"], "budget 'endless': expected one of quick"),
        (["--set", "steps"], "--set steps: expected NAME=VALUE"),
        (["--set", "steps=many"], "setting steps=many: expected a whole number"),
        (["--set", "speed=3"], "setting 'speed' is not known"),
        (["--axis", "up"], "unknown axis 'up'"),
        (["--intensity", "ct:heart"], "unknown CT window 'heart'"),
        (["--device", "cuda:99"], "device 'cuda:99'"),
        (["--side", "500"], "input side 500"),
        (["--encoder-blocks", "9"], "encoder blocks 9: this backbone has 1 to 2"),
        (["--encoder-blocks", "-1"], "encoder blocks -1"),
        (["--lora-rank", "-1"], "LoRA rank -1"),
        (["--base", "none.pth"], "no checkpoint at none.pth"),
        (["--labels", "none.nii.gz"], "1 --image but 2 --labels: give both"),
        (["--slices", "2"], "2 --slices for 1 volume: give one for every volume"),
        (["--held-out", "none"], "cannot read slice 'none'"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(
    case: Case, capsys: Capture, more: list[str], said: str
) -> None:
    assert said in error(case.arguments(*more), capsys)
    assert not case.output.parent.exists()


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ("3,6", "slice 6 is out of range: the volume has slices 0 to 5"),
        ("3,1-4", "slice 3 given more than once"),
        ("three", "cannot read slice 'three'"),
        ("0", "none of the 1 labeled slices holds a voxel of label 3, label 7"),
    ],
)
def test_slices_that_cannot_be_learned_from_are_one_line(
    case: Case, capsys: Capture, slices: str, said: str
) -> None:
    assert said in error(case.arguments(slices=slices), capsys)


def test_labels_that_do_not_belong_to_the_image_are_one_line(case: Case, capsys: Capture) -> None:
    thicker = Grid(GRID.size, (1.0, 1.0, 5.0), GRID.origin, GRID.direction)
    for labels, said in (
        (case.labels(grid=thicker), "is not on the grid of"),
        (case.labels(0, 0), "the first labels hold nothing but background"),
        (case.image(), "expected labels from 0"),
    ):
        pair = ["--image", case.image(), "--labels", labels, "--slices", "1"]
        assert said in error(case.arguments(*pair, pair=False), capsys)


@pytest.mark.parametrize("what", ["image", "labels", "base"])
def test_no_input_is_ever_overwritten(case: Case, capsys: Capture, what: str) -> None:
    path = case.base if what == "base" else Path(getattr(case, what)())
    before = path.read_bytes()
    for option in ("-o", "--curve"):
        told = error(case.arguments(option, f"{path.parent}/./{path.name}"), capsys)
        assert "it is read by this very command" in told
    assert path.read_bytes() == before


def test_the_curve_never_takes_the_place_of_the_model(case: Case, capsys: Capture) -> None:
    for path in (case.output, case.checkpoint):
        told = error(case.arguments("--curve", str(path)), capsys)
        assert "it is written by this very command" in told and not path.exists()


def test_held_out_slices_are_not_among_those_that_are_learned_by_default(
    case: Case, capsys: Capture
) -> None:
    pair = ["--image", case.image(), "--labels", case.labels(), "--held-out", "2,5"]
    told = report(case.arguments(*pair, pair=False), capsys)
    assert told["held_out_dice"] is not None
    card = read_card(case.output)
    assert card.provenance["images"][0]["slices"] == [1, 3, 4]


def test_labels_that_the_first_file_has_not_are_told(case: Case, capsys: Capture) -> None:
    second = ["--image", case.image(1), "--labels", case.labels(3, 9), "--slices", "2"]
    notes = report(case.arguments(*second), capsys)["notes"]
    assert any("9 (label 9) counts as background; known are 3 (label 3), 7" in n for n in notes)


def test_no_model_takes_the_place_of_a_segmentation(case: Case, capsys: Capture) -> None:
    drawn = case.folder / "drawn.seg.nrrd"
    drawn.write_bytes(b"by hand")
    assert main(case.arguments()[:-1] + [str(drawn)]) == 2
    assert f"{drawn} cannot hold a model: name a file that ends in .safetensors" in (
        capsys.readouterr().err
    )
    assert drawn.read_bytes() == b"by hand"


def test_an_image_that_shows_nothing_is_not_learned_from(case: Case, capsys: Capture) -> None:
    path = Path(case.image())
    write_volume(path, Volume(np.zeros((6, 30, 40), np.int16), GRID, "black"))
    assert "scan0.nii.gz is shown in one gray level" in error(case.arguments(), capsys)


def test_an_output_that_cannot_be_written_is_noticed_before_anything_is_read(
    case: Case, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = case.arguments()
    monkeypatch.setattr("SAMAutoSegLib.images.read.read_image", None)
    for option in ("-o", "--curve"):
        assert "it is a folder" in error([*arguments, option, str(case.folder)], capsys)
        below = str(case.base / "x.safetensors")
        assert f"cannot write {below}" in error([*arguments, option, below], capsys)
