"""The pictures a measurement looks at: held-out renders and what the models make of their captions, kept on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jointnet.demo.world.captions import Caption, caption
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import Scene, sample_scene
from jointnet.demo.world.splits import seeds
from jointnet.files.atomic import replacing_file
from jointnet.machine.precision import autocast_type

BATCH = 20


@dataclass(frozen=True)
class HeldOut:
    """Scenes of the validation or test split with one caption each and their exact maps."""

    scenes: list[Scene]
    captions: list[Caption]
    rgb: Tensor
    disparity01: Tensor
    normal: Tensor


def held_out(count: int, start: int = 0, size: int = 128, split: str = "test") -> HeldOut:
    """Render scenes of a split: rgb (N, 3, H, W) in [0, 1], disparity01 (N, 1, H, W), normal (N, 3, H, W)."""
    scenes = [sample_scene(s) for s in seeds(split, count, start)]
    maps = [render(scene, size) for scene in scenes]
    return HeldOut(
        scenes,
        [caption(scene) for scene in scenes],
        torch.from_numpy(np.stack([m.rgb for m in maps])).permute(0, 3, 1, 2).float(),
        torch.from_numpy(np.stack([m.disparity01 for m in maps]))[:, None].float(),
        torch.from_numpy(np.stack([m.normal for m in maps])).permute(0, 3, 1, 2).float(),
    )


MakeBatch = Callable[[slice, list[torch.Generator]], dict[str, Tensor]]
"""(which of the held-out scenes, one generator each) -> maps by name, each (B, c, H, W)."""


def precision_name() -> str:
    """The type that ``in_fastest_precision`` computes in here."""
    return str(autocast_type("fastest")).removeprefix("torch.")


@contextmanager
def in_fastest_precision(network: nn.Module) -> Iterator[None]:
    """Run a network under autocast, to save time; whatever is around it stays in float32."""
    dtype = autocast_type("fastest")
    network.forward = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)(network.forward)
    try:
        yield
    finally:
        del network.forward


def generated(network: nn.Module, make: MakeBatch, count: int, folder: Path, first_seed: int) -> dict[str, Tensor]:
    """Maps for the first ``count`` held-out scenes, scene i with seed first_seed + i; batches that are on disk already are read.

    ``network`` is the one that denoises, in the machine's fastest precision.

    Returns rgb as uint8 (N, H, W, 3) and every other map as float32 (N, c, H, W).
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, count, BATCH):
        stop = min(start + BATCH, count)
        path = folder / f"{start:06d}-{stop:06d}.safetensors"
        if not path.exists():
            generators = [torch.Generator().manual_seed(first_seed + i) for i in range(start, stop)]
            with in_fastest_precision(network):
                outputs = make(slice(start, stop), generators)
            maps = {name: value.half() for name, value in outputs.items()}
            maps["rgb"] = uint8(outputs["rgb"]).contiguous()
            with replacing_file(path) as temporary:
                save_file(maps, temporary)
            print(f"{folder.name}: {stop} of {count}", file=sys.stderr, flush=True)
        parts.append(load_file(path))
    joined = {name: torch.cat([p[name] for p in parts])[:count] for name in parts[0]}
    return {name: value if name == "rgb" else value.float() for name, value in joined.items()}


def floats(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> (N, 3, H, W) in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


def uint8(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> uint8 (N, H, W, 3)."""
    return (images * 255).round().byte().permute(0, 2, 3, 1)
