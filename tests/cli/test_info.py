"""jointnet info prints what a person understands, of joint models and of bases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jointnet.cli.info import BASES
from jointnet.cli.main import main
from jointnet.models.unet_branch import low_res_channels
from jointnet.pipelines.bases import SUPPORTED
from tests.bases import tiny_base


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is printed, by the names before the colons."""
    capsys.readouterr()
    assert main(["info", *words]) == 0, capsys.readouterr().err
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.strip().splitlines())


def test_a_bundled_base_is_described_as_other_models_are(capsys: pytest.CaptureFixture[str]) -> None:
    facts = printed(["demo-base"], capsys)
    assert facts["modalities"] == "rgb"
    assert facts["size"] == "128 px, multiples of 8"
    assert facts["kind"] == "a base to extend: StableDiffusionPipeline"
    assert "unet 7451464" in facts["parameters"]
    assert printed(["demo"], capsys)["kind"] == "a joint model"


@pytest.mark.parametrize("name", ["sd2", "sdxl", "if-1", "if-2"])
def test_every_kind_of_base_is_described(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base: Any = tiny_base(name)
    base.save_pretrained(tmp_path)
    assert printed([str(tmp_path)], capsys)["base"].startswith("DeepFloyd-IF stage II" if low_res_channels(base.unet) else "")
    assert set(BASES) == set(SUPPORTED)


def test_provenance_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    facts = printed(["demo-tasks"], capsys)
    assert facts["provenance"] == (
        "recipe demo-tasks, 3017 steps, 193088 samples, 45 min of training, data train 0..23999, code 16b1312004c1"
    )
    assert facts["stages"] == "demo-stage1, then demo-tasks"
    assert (facts["reads masks"], printed(["demo"], capsys)["reads masks"]) == ("yes", "no")


@pytest.mark.parametrize("content", ['{"stages": 3}', '{"stages": "stage1"}', '{"stages": [1, {}]}', '{"recipe": 4}'])
def test_provenance_that_is_none_gets_one_line(
    content: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "provenance.json").write_text(content)
    assert main(["info", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "provenance.json" in error


def test_entries_of_other_kinds_are_left_out(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "provenance.json").write_text(json.dumps({"steps": [], "seconds": "long", "start": "x\ny", "commit": {}}))
    assert printed([str(tmp_path / "model")], capsys)["provenance"] == "start x y"
