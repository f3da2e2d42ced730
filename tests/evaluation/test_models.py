"""Peers through their libraries, on tiny random weights in the public forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionLDM3DPipeline, StableDiffusionPipeline

import jointnet
from jointnet.cli.evaluate import DATA_SETS
from jointnet.evaluation.data.readers import READERS
from jointnet.evaluation.models.adapters import JointNet
from jointnet.evaluation.models.choose import contents_of, open_evaluated, stated_settings
from jointnet.evaluation.models.protocol import DEPTH_KEYS, Generator, Predictor
from jointnet.evaluation.models.settings import ModelSettings
from tests.bases import tiny_base
from tests.data.labelers.networks import pictures, save_depth_anything, save_dpt, save_marigold


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("base")
    tiny_base("sd1").save_pretrained(folder)
    return folder


def opened(text: str, ability: Any) -> Any:
    steps = None if text.startswith(("midas:", "depth-anything:")) else 2
    return open_evaluated(text, ability, ModelSettings(steps=steps), torch.device("cpu"), jointnet.load)


@pytest.mark.parametrize(("name", "save"), [("midas", save_dpt), ("depth-anything", save_depth_anything), ("marigold", save_marigold)])
def test_depth_of_the_libraries_is_raw(name: str, save: Any, tmp_path: Path) -> None:
    """Not clipped at quantiles, as labels are, and said to be what it is."""
    model = opened(f"{name}:{save(tmp_path)}", "predict")
    assert isinstance(model, Predictor)
    made = model.predict(pictures(2, 40, 56), [0, 1])
    ((key, value),) = made.items()
    assert key == ("depth_affine_invariant" if name == "marigold" else "disparity_affine_invariant")
    assert key in DEPTH_KEYS
    assert value.shape == (2, 40, 56)
    assert float((value == value.max()).float().mean()) < 0.01


def test_a_joint_model_predicts_and_generates(model_folder: Path) -> None:
    predicts, generates = (opened(str(model_folder), ability) for ability in ("predict", "generate"))
    assert isinstance(predicts, Predictor)
    assert isinstance(generates, Generator)
    assert predicts.predict(pictures(2, 32, 48), [0, 1])["disparity_affine_invariant"].shape == (2, 32, 48)
    one, two = (generates.generate(["a ball", "a box"][:count], [3, 4][:count]) for count in (1, 2))
    assert torch.allclose(one["rgb"][0], two["rgb"][0], atol=1e-4)
    assert one["depth"].shape[1] == 1


def test_settings_are_the_models_own_and_are_stated(model_folder: Path, tmp_path: Path) -> None:
    """What a model was distilled to counts, and a peer's steps are its folder's."""
    pipeline = jointnet.load(str(model_folder))
    pipeline.register_to_config(default_steps=3)
    own = JointNet.opened(pipeline, ModelSettings())
    assert own.steps == 3
    assert stated_settings(str(model_folder), "predict", own) == {"steps": 3, "ensemble": 1}
    text = f"marigold:{save_marigold(tmp_path)}"
    assert stated_settings(text, "predict", opened(text, "predict")) == {"steps": 2}


def test_contents_change_with_any_weight(model_folder: Path) -> None:
    first = opened(str(model_folder), "predict")
    before = contents_of(str(model_folder), first)
    with torch.no_grad():
        next(first.pipeline.joint_unet.parameters()).add_(1)
    assert contents_of(str(model_folder), first) != before


def test_readers_are_those_that_the_help_lists() -> None:
    assert tuple(READERS) == DATA_SETS


@pytest.mark.parametrize("channels", [4, 6])
def test_ldm3d_makes_rgb_and_depth(base_folder: Path, channels: int, tmp_path: Path) -> None:
    base = StableDiffusionPipeline.from_pretrained(base_folder)
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config({**base.vae.config, "in_channels": channels, "out_channels": channels})
    parts = {**base.components, "vae": vae, "image_encoder": None}
    StableDiffusionLDM3DPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "ldm3d")
    made = opened(f"ldm3d:{tmp_path / 'ldm3d'}", "generate").generate(["a ball", "a box", "a sphere"], [0, 1, 2])
    assert made["rgb"].shape[:2] == (3, 3)
    assert made["depth"].shape == (3, 1, *made["rgb"].shape[-2:])
    assert float(made["depth"].std()) > 0
    assert 0 <= float(made["depth"].min()) <= float(made["depth"].max()) <= 1


def test_any_text_to_image_pipeline_generates(base_folder: Path) -> None:
    made = opened(f"diffusers:{base_folder}", "generate").generate(["a ball"], [0])
    assert set(made) == {"rgb"}
    assert 0 <= float(made["rgb"].min()) <= float(made["rgb"].max()) <= 1
