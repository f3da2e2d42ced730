"""The demo stages on a GPU, as far as that can be seen without one: shapes and devices are computed, values are not.

torch's fake tensors refuse what a GPU would refuse, an operation on tensors of two devices, and any number that Python would wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from jointnet.codecs.latent import LatentCodec
from jointnet.data.bad_samples import BadSamples
from jointnet.data.latents import LatentStore, Row
from jointnet.demo.judges import train as judges
from jointnet.demo.training import autoencoder, base, regressor
from jointnet.demo.training.source import SceneSource
from jointnet.demo.world.cache import WORLD_VERSION, SceneCache, render_chunk
from jointnet.demo.world.render import render_batch
from jointnet.demo.world.scene import sample_scene
from jointnet.training.encode import encode_source, latent_store
from jointnet.training.feed import Feed
from jointnet.training.trainer import Objective

NUM_SCENES, BATCH = 6, 4


class FakeDevices(FakeTensorMode):
    """Fake tensors for which every condition holds everywhere, so that each branch is taken with all of its rays."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            (condition,) = args
            return condition.new_empty((condition.numel(), condition.ndim), dtype=torch.int64)
        return super().__torch_dispatch__(func, types, args, kwargs or {})


def to(module: nn.Module, device: Any, **_: Any) -> nn.Module:
    """``Module.to``, which cannot replace weights that are fakes."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(value.detach().to(device)))
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, value.to(device))
    return module


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(nn.Module, "to", to)
    with FakeDevices(allow_non_fake_inputs=True):
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    folder = tmp_path_factory.mktemp("scenes")
    render_chunk(folder / f"train-128px-world{WORLD_VERSION}-{0:08d}", 0, NUM_SCENES, 128)
    return SceneCache(folder, "train", NUM_SCENES)


class Files(LatentStore):
    """A store whose files are real."""

    def row(self, number: int) -> Row:
        with unset_fake_temporarily():
            return super().row(number)

    def all_latents(self, channels: int, size: tuple[int, int]) -> Tensor:
        with unset_fake_temporarily():
            return super().all_latents(channels, size)


@pytest.fixture(scope="module")
def stores(scenes: SceneCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatentStore]:
    source, codec, size = SceneSource(scenes), LatentCodec(autoencoder.new_autoencoder()), (128, 128)
    encoded = {}
    for modalities in (("rgb",), ("rgb", "depth")):
        store = latent_store(tmp_path_factory.mktemp("latents"), NUM_SCENES, modalities, [size], codec, {})
        encode_source(source, store, [size], None, codec, {}, BadSamples(0, NUM_SCENES))
        encoded["-".join(modalities)] = Files(store.folder, NUM_SCENES, modalities, store.source)
    return encoded


def forward(objective: Objective, feed: Feed, **_: Any) -> None:
    """What the trainer does in a step up to the loss: read on the CPU, prepare and compute on the objective's device."""
    device = next(objective.parameters()).device
    with unset_fake_temporarily():
        batch = feed.collate([feed.item(row, torch.Generator().manual_seed(row)) for row in range(BATCH)])
        counts = objective.counts(batch)
    losses = objective(feed.prepare(batch, device), counts.to(device))
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
    raise StopIteration


def test_scenes_are_rendered_on_the_device(fakes: None) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
    maps = render_batch([sample_scene(seed) for seed in range(NUM_SCENES)], 16, "cuda")
    assert {value.device.type for value in vars(maps).values()} == {"cuda"}
    assert maps.rgb.shape == maps.normal.shape == (NUM_SCENES, 3, 16, 16)


TRAININGS = [
    (autoencoder, autoencoder.train_autoencoder),
    (judges, judges.train_attribute_judge),
    (judges, judges.train_depth_regressor),
]


@pytest.mark.parametrize(("module", "train"), TRAININGS)
def test_scenes_stay_on_the_device(
    module: Any, train: Any, scenes: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: None
) -> None:
    monkeypatch.setattr(module, "fit", forward)
    with pytest.raises(StopIteration):
        train(scenes, tmp_path, device="cuda")


def test_latents_and_captions_stay_on_the_device(
    stores: dict[str, LatentStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: None
) -> None:
    for module, run in (
        (base, lambda: base.train_base(autoencoder.new_autoencoder(), stores["rgb"], tmp_path, device="cuda")),
        (regressor, lambda: regressor.train_latent_regressor(stores["rgb-depth"], tmp_path, device="cuda")),
    ):
        monkeypatch.setattr(module, "fit", forward)
        with pytest.raises(StopIteration):
            run()
