"""Folders, files and hub ids that models are opened by."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as of_diffusers
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from transformers.utils import logging as of_transformers

from jointnet import loading
from jointnet.errors import ModelFolderError
from jointnet.pipelines.joint_net import MODEL_FACTS, JointNetPipeline
from tests.bases import assert_same_weights, tiny_base
from tests.conftest import tiny_pipeline
from tests.pipelines.test_habits import make


def without(file: Path, part: str) -> str:
    """Remove the first weight that has this in its name from a file; its name."""
    weights = load_file(file)
    name = next(name for name in sorted(weights) if part in name)
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    return name


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of a tiny joint model's folder."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("component", "file"), [("joint_unet", "diffusion_pytorch_model"), ("text_encoder", "model"), ("vae", "diffusion_pytorch_model")]
)
def test_a_missing_weight_is_named(component: str, file: str, folder: Path) -> None:
    name = without(folder / component / f"{file}.safetensors", "conv_out.weight" if component != "text_encoder" else "layer_norm1.weight")
    for opened in (JointNetPipeline.from_pretrained, loading.load):
        with pytest.raises(ModelFolderError, match="got no weight ") as caught:
            opened(folder)
        assert name.removeprefix("text_model.") in str(caught.value)
        assert component in str(caught.value)


def test_a_missing_weight_is_named_without_meta_tensors_too(folder: Path) -> None:
    without(folder / "joint_unet" / "diffusion_pytorch_model.safetensors", "conv_out.weight")
    with pytest.raises(ModelFolderError, match=r"got no weight branches\.depth\.unet\.conv_out\.weight"):
        JointNetPipeline.from_pretrained(folder, low_cpu_mem_usage=False)


def test_a_folder_of_one_variant_only_is_opened(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "model", variant="fp16")
    assert not list((tmp_path / "model").rglob("diffusion_pytorch_model.safetensors"))
    for loaded in (JointNetPipeline.from_pretrained(tmp_path / "model"), loading.load(tmp_path / "model")):
        assert_same_weights(loaded.joint_unet, pipeline.joint_unet)
        assert_same_weights(loaded.text_encoder, pipeline.text_encoder)
    base = tiny_base("sd1")
    base.save_pretrained(tmp_path / "base", variant="fp16")
    assert_same_weights(JointNetPipeline.from_base(tmp_path / "base").unet, base.unet)


def test_a_base_opened_as_a_joint_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tiny_base("sd1").save_pretrained(tmp_path)
    for opened in (JointNetPipeline.from_pretrained, loading.load):
        with pytest.raises(ModelFolderError, match=r"got a StableDiffusionPipeline .* JointNetPipeline\.from_base"):
            opened(tmp_path)


def test_a_single_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "v1-5-pruned.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    for opened in (JointNetPipeline.from_base, JointNetPipeline.from_pretrained, loading.load):
        with pytest.raises(ModelFolderError, match=r"single file .*v1-5-pruned.*from_single_file"):
            opened(file)


def test_diffusers_itself_names_what_to_pass(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(model_folder)
    loaded = DiffusionPipeline.from_pretrained(model_folder, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    assert torch.allclose(make(loaded).depth, make(tiny_pipeline()).depth, atol=1e-4)


def test_folders_saved_before_still_open(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "JointNetPipeline", "default_guidance": 3.0}))
    config = json.loads((folder / "joint_unet" / "config.json").read_text())
    old = {name: value for name, value in config.items() if name not in MODEL_FACTS}
    (folder / "joint_unet" / "config.json").write_text(json.dumps(old))
    loaded = loading.load(folder)
    assert loaded.config.default_guidance == 3.0
    assert JointNetPipeline(**loaded.components).config.default_guidance == 3.0


# Loading by name


def test_loading_leaves_progress_bars_as_they_were(model_folder: Path) -> None:
    try:
        for library in (of_diffusers, of_transformers):
            library.enable_progress_bar()
        loading.load(model_folder)
        assert of_diffusers.is_progress_bar_enabled()
        assert of_transformers.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
        of_diffusers.disable_progress_bar()
        loading.load(model_folder)
        assert not of_diffusers.is_progress_bar_enabled()
    finally:
        of_diffusers.enable_progress_bar()


def test_two_threads_that_load_leave_progress_bars_as_they_were(model_folder: Path) -> None:
    of_diffusers.enable_progress_bar()
    threads = [threading.Thread(target=loading.load, args=(model_folder,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of_diffusers.is_progress_bar_enabled()


class Fetched:
    """Stands for the hub: what was asked of it."""

    def __init__(self, folder: Path, cached: bool) -> None:
        self.folder, self.cached, self.calls = folder, cached, []

    def __call__(self, name: str, *, local_files_only: bool = False) -> str:
        self.calls.append((name, local_files_only))
        if local_files_only and not self.cached:
            raise FileNotFoundError("not cached")
        return str(self.folder)


@pytest.mark.parametrize("cached", [True, False])
def test_a_hub_id_is_looked_up_in_the_cache_first(cached: bool, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Fetched(model_folder, cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert_same_weights(loading.load("someone/joint-model").joint_unet, tiny_pipeline().joint_unet)
    assert hub.calls == [("someone/joint-model", True), *([] if cached else [("someone/joint-model", False)])]


def test_a_model_that_is_cached_in_part_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub = Fetched(folder, cached=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert loading.model_folder("someone/joint-model") == folder
    assert [is_local for _, is_local in hub.calls] == [True, False]


def test_bundled_names_and_folders_never_ask_the_hub(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **kwargs: Any) -> str:
        raise AssertionError(arguments)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(model_folder, tmp_path / "runs" / "model")
    loading.load("runs/model")
    loading.load("demo")
    for missing in ("runs/other", "nothing", "./some/model", str(tmp_path / "none"), "a/b/c", Path("some/model")):
        with pytest.raises(ModelFolderError, match="is no folder"):
            loading.load(missing)


def test_a_hub_id_that_cannot_be_fetched_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelFolderError, match=r"'someone/model', which is no folder, no bundled model .demo, .*: no route$"):
        loading.load("someone/model")
