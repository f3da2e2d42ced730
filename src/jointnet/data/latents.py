"""Encoded maps on disk: a modality's latents of a whole data set as one float16 array, written once, read by every stage."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jointnet.modalities.codec import Codec


@torch.no_grad()
def encode_to_file(codec: Codec, modality: str, batches: Iterable[Tensor], path: Path) -> Path:
    """Encode batches of maps (B, c, H, W) with the posterior's mean into one .npy (N, C, h, w); it appears whole or not at all."""
    if path.exists():
        return path
    latents = np.concatenate([codec.encode(modality, maps).float().numpy().astype(np.float16) for maps in batches])
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        np.save(file, latents)
    os.replace(unfinished, path)
    return path


def load_latents(paths: Iterable[Path]) -> Tensor:
    """The given files, one a modality, as one float32 tensor (N, M, C, h, w)."""
    return torch.stack([torch.from_numpy(np.load(path).astype(np.float32)) for path in paths], 1)
