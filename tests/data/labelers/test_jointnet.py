"""A joint model's prediction as a labeler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jointnet.data.labelers.labeler import Labeler
from jointnet.data.labelers.normals_from_depth import NormalsFromDepth
from jointnet.data.labelers.registry import get_labeler
from jointnet.errors import ModelFolderError, UnknownNameError
from jointnet.loading import load
from jointnet.pipelines.labeler import JointNetLabeler
from tests.data.labelers.networks import pictures


@pytest.fixture(scope="module")
def labeler(model_folder: Path) -> JointNetLabeler:
    opened = get_labeler(f"depth=jointnet:{model_folder}")
    assert isinstance(opened, JointNetLabeler)
    return replace(opened, steps=2)


def test_it_is_what_the_model_predicts(labeler: JointNetLabeler, model_folder: Path) -> None:
    rgb = pictures(1, 32, 32)
    pipe = load(model_folder)
    pipe.set_progress_bar_config(disable=True)
    predicted = pipe.predict(rgb, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").dense["depth"]
    assert isinstance(labeler, Labeler)
    torch.testing.assert_close(labeler(rgb), predicted.clamp(0, 1), atol=1e-5, rtol=0)


def test_a_pictures_map_does_not_depend_on_its_batch(labeler: JointNetLabeler) -> None:
    rgb = pictures(3, 40, 48)
    together = labeler(rgb)
    assert together.shape == (3, 1, 40, 48)
    torch.testing.assert_close(torch.cat([labeler(picture[None]) for picture in rgb]), together, atol=1e-4, rtol=0)


def test_its_fingerprint_changes_with_steps_and_seed(labeler: JointNetLabeler) -> None:
    each = [labeler, replace(labeler, steps=3), replace(labeler, seed=1)]
    assert len({one.fingerprint() for one in each}) == 3


def test_the_bundled_model_is_the_default_and_states_its_near_distance() -> None:
    opened = get_labeler("depth=jointnet")
    assert isinstance(opened, JointNetLabeler)
    assert opened.depth_near_m == 1.5
    normals = get_labeler("normal=from-depth:jointnet:demo")
    assert isinstance(normals, NormalsFromDepth)
    assert normals.far_over_near is None


def test_a_model_that_does_not_make_the_modality_is_refused(model_folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="makes depth; expected one that makes normal"):
        get_labeler(f"normal=jointnet:{model_folder}")
    with pytest.raises(ModelFolderError):
        get_labeler("depth=jointnet:/nowhere")
