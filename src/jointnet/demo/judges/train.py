"""Training the judges, on rendered scenes only: they never see a decoded or generated picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, interpolate

from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor, Reading
from jointnet.demo.world.cache import SceneCache
from jointnet.demo.world.scene import COLOURS, FLOORS, SETTINGS, SHAPES, SIZES, Scene, sample_scene
from jointnet.demo.world.splits import seeds
from jointnet.training.config import OptimConfig
from jointnet.training.feed import TensorFeed
from jointnet.training.state import Progress
from jointnet.training.trainer import FunctionObjective, fit


def judge_config() -> OptimConfig:
    """Cosine from 2e-3."""
    return OptimConfig(
        lr=2e-3,
        batch_size=32,
        steps=6000,
        warmup_steps=100,
        decay="cosine",
        weight_decay=0.02,
        precision="fastest",
        seed=7,
    )


def attribute_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Ground truth by the names of Reading; -1 where a colour is absent (shape, size), nan for its place."""
    count, k = len(scenes), len(COLOURS)
    labels = {
        "present": torch.zeros(count, k),
        "shape": torch.full((count, k), -1),
        "size": torch.full((count, k), -1),
        "column": torch.full((count, k), torch.nan),
        "nearness": torch.full((count, k), torch.nan),
        "floor": torch.tensor([FLOORS.index(s.floor) for s in scenes]),
        "setting": torch.tensor([SETTINGS.index(s.setting) for s in scenes]),
    }
    for i, scene in enumerate(scenes):
        for solid in scene.solids:
            place = (i, COLOURS.index(solid.colour))
            labels["present"][place] = 1
            labels["shape"][place] = SHAPES.index(solid.shape)
            labels["size"][place] = SIZES.index(solid.size)
            labels["column"][place] = scene.column(solid)
            labels["nearness"][place] = 1 / solid.z_m
    return labels


def attribute_loss(reading: Reading, labels: dict[str, Tensor], normal: Tensor) -> Tensor:
    """Cross entropies of the labels, squared errors of the places and of the normals (B, 3, H, W)."""
    there = labels["present"] > 0
    return (
        4 * binary_cross_entropy_with_logits(reading.present.float(), labels["present"])
        + cross_entropy(reading.shape.float().flatten(0, 1), labels["shape"].flatten(), ignore_index=-1)
        + cross_entropy(reading.size.float().flatten(0, 1), labels["size"].flatten(), ignore_index=-1)
        + cross_entropy(reading.floor.float(), labels["floor"])
        + cross_entropy(reading.setting.float(), labels["setting"])
        + 5 * (reading.column.float() - labels["column"])[there].square().mean()
        + 50 * (reading.nearness.float() - labels["nearness"])[there].square().mean()
        + 10 * (reading.normal.float() - avg_pool2d(normal, normal.shape[-1] // reading.normal.shape[-1])).square().mean()
    )


def soften(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blur every other image by a random amount and add a little noise: judges must not hang on edges finer than any decoder's.

    Shapes: (3, H, W) -> (3, H, W).
    """
    noisy = image + 0.03 * torch.rand((), generator=generator) * torch.randn(image.shape, generator=generator)
    amount = torch.rand((), generator=generator) * (torch.rand((), generator=generator) < 0.5)
    blurred = interpolate(avg_pool2d(image[None], 2), scale_factor=2.0, mode="bilinear")[0]
    return noisy + amount * (blurred - image)


def train_attribute_judge(
    scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[AttributeJudge, Progress]:
    """Train (or resume) the attribute judge."""
    torch.manual_seed(3)
    model = AttributeJudge().to(device)
    labels = attribute_labels([sample_scene(s) for s in seeds(scenes.split, scenes.num_scenes)])
    pictures = _Pictures(scenes)

    def read(row: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = {name: value[row] for name, value in labels.items()}
        return {"image": soften(pictures.rgb(row), generator), "normal": pictures.normal(row), **chosen}

    def loss_fn(network: AttributeJudge, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        reading = network(batch["image"].contiguous(memory_format=torch.channels_last))
        return {"loss": attribute_loss(reading, batch, batch["normal"])}

    return model, _fit(model, loss_fn, read, scenes, run_dir, budget_minutes)


def train_depth_regressor(
    scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[DepthRegressor, Progress]:
    """Train (or resume) the depth regressor: L1 of disparity and of its gradients."""
    torch.manual_seed(4)
    model = DepthRegressor().to(device)
    pictures = _Pictures(scenes)

    def read(row: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"image": soften(pictures.rgb(row), generator), "disparity01": pictures.disparity01(row)}

    def loss_fn(network: DepthRegressor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        difference = network(batch["image"].contiguous(memory_format=torch.channels_last)).float() - batch["disparity01"]
        l1 = difference.abs().mean()
        gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        return {"loss": 10 * (l1 + gradient), "l1": l1}

    return model, _fit(model, loss_fn, read, scenes, run_dir, budget_minutes)


def _fit(
    model: nn.Module,
    loss_fn: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]],
    read: Callable[[int, torch.Generator], dict[str, Tensor]],
    scenes: SceneCache,
    run_dir: Path,
    budget_minutes: float | None,
) -> Progress:
    feed = TensorFeed(scenes.num_scenes, read)
    return fit(FunctionObjective(model, loss_fn), feed, config=judge_config(), run_dir=run_dir, budget_minutes=budget_minutes)


class _Pictures:
    """Cached maps by scene index."""

    def __init__(self, scenes: SceneCache) -> None:
        self.rgb_chunks, self.disparity_chunks, self.normal_chunks = (scenes.arrays(name) for name in ("rgb", "disparity", "normal"))

    def rgb(self, row: int) -> Tensor:
        """(3, H, W) in [0, 1]."""
        return torch.from_numpy(self._take(self.rgb_chunks, row)).permute(2, 0, 1).float() / 255

    def disparity01(self, row: int) -> Tensor:
        """(1, H, W) in [0, 1]."""
        return torch.from_numpy(self._take(self.disparity_chunks, row).astype(np.float32))[None] / 65535

    def normal(self, row: int) -> Tensor:
        """(3, H, W), unit, 0 in the sky."""
        return torch.from_numpy(self._take(self.normal_chunks, row)).permute(2, 0, 1).float() / 127.5 - 1

    @staticmethod
    def _take(chunks: list[np.ndarray], row: int) -> np.ndarray:
        return np.array(chunks[row // len(chunks[0])][row % len(chunks[0])])
