"""Training the judges, on rendered scenes only: they never see a decoded or generated picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def draw_softening(size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a little noise "noise" (3, size, size), and for every other image an amount of blur "blur" (): see ``soften``."""
    noise = 0.03 * torch.rand((), generator=generator) * torch.randn(3, size, size, generator=generator)
    return {"noise": noise, "blur": torch.rand((), generator=generator) * (torch.rand((), generator=generator) < 0.5)}


def soften(image: Tensor, noise: Tensor, blur: Tensor) -> Tensor:
    """Blur images and add noise: judges must not hang on edges finer than any decoder's.

    Shapes: image, noise (B, 3, H, W), blur (B,) -> (B, 3, H, W).
    """
    blurred = interpolate(avg_pool2d(image, 2), scale_factor=2.0, mode="bilinear")
    return image + noise + blur[:, None, None, None] * (blurred - image)


def train_attribute_judge(
    scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[AttributeJudge, Progress]:
    """Train (or resume) the attribute judge."""
    torch.manual_seed(3)
    model = AttributeJudge().to(device)
    labels = attribute_labels([sample_scene(s) for s in seeds(scenes.split, scenes.num_scenes)])
    labels = {name: value.to(device) for name, value in labels.items()}
    rgb, normal = _Pictures(scenes, "rgb", device), _Pictures(scenes, "normal", device)

    def held(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        chosen = {name: value[batch["row"].to(value.device)] for name, value in labels.items()}
        return {"rgb": rgb.take(batch["row"]) / 255, "normal": normal.take(batch["row"]) / 127.5 - 1, **chosen}

    return model, _fit(model, attribute_losses, held, scenes, run_dir, budget_minutes)


def train_depth_regressor(
    scenes: SceneCache, run_dir: Path, *, budget_minutes: float | None = None, device: torch.device | str = "cpu"
) -> tuple[DepthRegressor, Progress]:
    """Train (or resume) the depth regressor: L1 of disparity and of its gradients."""
    torch.manual_seed(4)
    model = DepthRegressor().to(device)
    rgb, disparity = _Pictures(scenes, "rgb", device), _Pictures(scenes, "disparity", device)

    def held(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"rgb": rgb.take(batch["row"]) / 255, "disparity01": disparity.take(batch["row"]) / 65535}

    return model, _fit(model, depth_losses, held, scenes, run_dir, budget_minutes)


def attribute_losses(network: AttributeJudge, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """ "rgb" (B, 3, H, W) in [0, 1] is softened; "normal" as large, and the labels."""
    reading = network(_softened(batch))
    return {"loss": attribute_loss(reading, batch, batch["normal"])}


def depth_losses(network: DepthRegressor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """L1 of disparity and of its gradients: "rgb" (B, 3, H, W) in [0, 1] is softened, "disparity01" (B, 1, H, W)."""
    difference = network(_softened(batch)).float() - batch["disparity01"]
    l1 = difference.abs().mean()
    gradient = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return {"loss": 10 * (l1 + gradient), "l1": l1}


def _softened(batch: dict[str, Tensor]) -> Tensor:
    return soften(batch["rgb"], batch["noise"], batch["blur"]).contiguous(memory_format=torch.channels_last)


def _fit(
    model: nn.Module,
    loss_fn: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]],
    held: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    scenes: SceneCache,
    run_dir: Path,
    budget_minutes: float | None,
) -> Progress:
    feed = TensorFeed(scenes.num_scenes, lambda _, generator: draw_softening(scenes.size, generator), held)
    return fit(FunctionObjective(model, loss_fn), feed, config=judge_config(), run_dir=run_dir, budget_minutes=budget_minutes)


class _Pictures:
    """One map of the cached scenes, held on a device."""

    def __init__(self, scenes: SceneCache, name: str, device: torch.device | str) -> None:
        self.chunks = scenes.chunks(name, device)

    def take(self, rows: Tensor) -> Tensor:
        """Rows (B,) as the cache has them, float32 (B, c, H, W)."""
        chunk = len(self.chunks[0])
        maps = torch.stack([self.chunks[row // chunk][row % chunk].float() for row in rows.tolist()])
        return maps[:, None] if maps.ndim == 3 else maps.permute(0, 3, 1, 2)
