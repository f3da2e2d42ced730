"""Vectors (3, N) of many rays, and values of many scenes, one a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def columns(values: Iterable[Sequence[float]], device: torch.device) -> Tensor:
    """Values of each of B scenes as (K, B), float32."""
    return torch.from_numpy(np.array(list(values), np.float32)).T.contiguous().to(device)


def column(values: Iterable[float], device: torch.device) -> Tensor:
    """One value of each of B scenes as (B,), float32."""
    return torch.tensor(list(values), dtype=torch.float32, device=device)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values (..., K) at places (N,) of the last axis."""
    return values.index_select(-1, index)


def at(values: Tensor, index: Tensor) -> Tensor:
    """As ``take``; but a single column is that of every place: it stays one, and broadcasts."""
    return values if values.shape[-1] == 1 else take(values, index)


def places(condition: Tensor) -> Tensor:
    """Where a condition (N,) holds. On a GPU this waits for what was asked of it before."""
    return condition.nonzero().squeeze(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(K, N) x (K, N) -> (N,)."""
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), start=a[0] * b[0])


def unit(vector: Tensor) -> Tensor:
    """Vectors (3, N) of length 1."""
    return vector / dot(vector, vector).sqrt()
