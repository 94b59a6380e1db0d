import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from SAMAutoSegLib.adapt.inspection import describe
from SAMAutoSegLib.sam import catalog
from SAMAutoSegLib.sam.input_spec import InputSpec


def test_a_description_says_what_a_file_is(tiny_file: Path) -> None:
    facts = describe(tiny_file)
    assert (facts["family"], facts["side"], facts["adapted"]) == ("vit_b", 128, False)
    assert facts["license"] is None and len(facts["sha256"]) == 64
    assert facts["missing"] == facts["unexpected"] == []
    assert "This is SAM ViT-B, side 128." in facts["summary"]
    assert "license are not known" in facts["summary"]


def test_a_description_lists_the_structures_of_an_adapted_file(tmp_path: Path) -> None:
    path = tmp_path / "adapted.safetensors"
    card = {
        "method": "blo-sam",
        "backbone": "lite-medsam",
        "backbone_sha256": catalog.get("lite-medsam").sha256,
        "input": InputSpec(256, "unit").to_json(),
        "structures": [{"name": "liver", "label": 1}, {"name": "spleen", "label": 2}],
    }
    header = {"format": "SAMAutoSeg adapted model", "card": json.dumps(card)}
    save_file({"prompt": torch.zeros(256)}, path, header)
    facts = describe(path)
    assert facts["adapted"] and facts["structures"] == ["liver", "spleen"]
    assert (facts["family"], facts["side"]) == ("vit_t", 256)
    assert "an adapted model (blo-sam on lite-medsam)" in facts["summary"]
    assert "liver, spleen" in facts["summary"]
