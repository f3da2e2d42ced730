"""The card of a saved model: its metadata as the hub reads them, and the facts that its files state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from jointnet.checkpoints.card import write_card


def card_of(
    folder: Path, modalities: tuple[str, ...] = ("rgb", "depth"), provenance: dict[str, Any] | None = None, **index: Any
) -> ModelCard:
    """The card of a folder with these facts; ``index`` is the content of model_index.json."""
    (folder / "joint_unet").mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "joint_unet" / "config.json").write_text(json.dumps({"modalities": modalities, "has_masked_input": True}))
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    write_card(folder)
    return ModelCard.load(folder / "README.md")


def test_the_hub_reads_its_metadata(tmp_path: Path) -> None:
    card = card_of(tmp_path, ("rgb", "depth", "normal"))
    assert card.data.to_dict() == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["jointnet", "rgb", "depth", "normal"],
    }
    assert card.text.startswith("\n# JointNet: rgb, depth, normal\n")
    assert "does not say how it was trained" in card.text
    assert "JointNetPipeline" in (tmp_path / "pipeline.py").read_text()


def test_a_base_of_the_hub_and_a_license_are_metadata(tmp_path: Path) -> None:
    data = card_of(tmp_path, provenance={"base": "owner/stable-base", "license": "openrail++"}).data
    assert (data.base_model, data.license) == ("owner/stable-base", "openrail++")


@pytest.mark.parametrize("base", ["demo-base", "/models/sd2", "../models/sd2", "a/b/c", None, "own/sd2"])
def test_a_base_that_is_not_of_the_hub_is_text_only(base: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "sd2").mkdir(parents=True)
    card = card_of(tmp_path, provenance={"recipe": "stage1", "base": base})
    assert card.data.base_model is None
    assert (f"- base: {base}" in card.text) == (base is not None)


def test_training_is_listed_from_the_provenance_file(tmp_path: Path) -> None:
    provenance = {
        "stages": ["stage1", "stage2"],
        "recipe": "stage2",
        "steps": 12,
        "samples_seen": 48,
        "machine": {"cores": 2},
        "commit": "abc",
    }
    text = card_of(tmp_path, provenance=provenance).text
    assert "- recipe: stage1, then stage2\n- steps: 12\n- samples seen: 48\n- machine: cores 2\n- commit: abc" in text
    assert "- reads masks: yes\n- independent timesteps: no" in text


def test_depth_states_its_unit_where_there_is_depth(tmp_path: Path) -> None:
    assert "near / z with near = 1.5 m" in card_of(tmp_path, depth_near_m=1.5).text
    assert "up to scale and shift" in card_of(tmp_path).text
    assert "- depth" not in card_of(tmp_path, ("rgb", "normal"), depth_near_m=1.5).text
