"""Training the judges, on rendered scenes only: they never see a decoded or generated picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, cross_entropy, interpolate

from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor, Reading
from jointnet.demo.world.cache import SceneCache
from jointnet.demo.world.scene import COLOURS, FLOORS, SETTINGS, SHAPES, SIZES, Scene, sample_scene
from jointnet.demo.world.splits import seeds
from jointnet.training.config import OptimConfig
from jointnet.training.loop import LossFn, fit
from jointnet.training.state import Progress


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


def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the batch by a random amount and add a little noise: judges must not hang on edges finer than any decoder's."""
    count = len(images)
    noisy = images + 0.03 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(images.shape, generator=generator)
    amount = torch.rand(count, 1, 1, 1, generator=generator) * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
    blurred = interpolate(avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
    return (noisy + amount * (blurred - images)).contiguous(memory_format=torch.channels_last)


def train_attribute_judge(scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None) -> tuple[AttributeJudge, Progress]:
    """Train (or resume) the attribute judge."""
    torch.manual_seed(3)
    model = AttributeJudge()
    labels = attribute_labels([sample_scene(s) for s in seeds(scenes.split, scenes.num_scenes)])
    pictures = _Pictures(scenes)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        reading = model(soften(pictures.rgb(indices), generator))
        chosen = {name: value[indices] for name, value in labels.items()}
        return {"loss": attribute_loss(reading, chosen, pictures.normal(indices))}

    return model, _fit(model, loss_fn, scenes, run_dir, budget_minutes)


def train_depth_regressor(scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None) -> tuple[DepthRegressor, Progress]:
    """Train (or resume) the depth regressor: L1 of disparity and of its gradients."""
    torch.manual_seed(4)
    model = DepthRegressor()
    pictures = _Pictures(scenes)

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        difference = model(soften(pictures.rgb(indices), generator)).float() - pictures.disparity01(indices)
        l1 = difference.abs().mean()
        gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        return {"loss": 10 * (l1 + gradient), "l1": l1}

    return model, _fit(model, loss_fn, scenes, run_dir, budget_minutes)


def _fit(model: nn.Module, loss_fn: LossFn, scenes: SceneCache, run_dir: Path, budget_minutes: float | None) -> Progress:
    return fit(model, loss_fn, num_samples=scenes.num_scenes, config=judge_config(), run_dir=run_dir, budget_minutes=budget_minutes)


class _Pictures:
    """Batches of cached maps by scene index."""

    def __init__(self, scenes: SceneCache) -> None:
        self.rgb_chunks, self.disparity_chunks, self.normal_chunks = (scenes.arrays(name) for name in ("rgb", "disparity", "normal"))

    def rgb(self, indices: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1]."""
        return torch.from_numpy(self._take(self.rgb_chunks, indices)).permute(0, 3, 1, 2).float() / 255

    def disparity01(self, indices: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1]."""
        return torch.from_numpy(self._take(self.disparity_chunks, indices).astype(np.float32))[:, None] / 65535

    def normal(self, indices: Tensor) -> Tensor:
        """(B, 3, H, W), unit, 0 in the sky."""
        return torch.from_numpy(self._take(self.normal_chunks, indices)).permute(0, 3, 1, 2).float() / 127.5 - 1

    @staticmethod
    def _take(chunks: list[np.ndarray], indices: Tensor) -> np.ndarray:
        return np.stack([chunks[i // len(chunks[0])][i % len(chunks[0])] for i in indices.tolist()])
