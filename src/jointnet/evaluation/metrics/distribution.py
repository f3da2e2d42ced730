"""Distances between two sets of feature vectors: Frechet and kernel (KID), with bootstrap intervals. Features are (N, D)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a feature set."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Fit to (N, D) features, N > 1."""
        return cls(features.mean(0), np.cov(features, rowvar=False))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). Source: Heusel et al. (2017), Eq. 6.

    The trace of the root is the sum of the roots of the eigenvalues of R S_b R, R the symmetric root of S_a.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(eigenvalues.clip(0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def kernel_distance(a: np.ndarray, b: np.ndarray, *, num_subsets: int = 100, subset: int = 1000, seed: int = 0) -> tuple[float, float]:
    """KID: unbiased squared MMD with the kernel (x.y / D + 1)^3, mean and standard deviation over random subsets.

    Source: Binkowski et al. (2018).
    """
    rng = np.random.default_rng(seed)
    size = min(subset, len(a), len(b))
    values = [_mmd2(rng.permutation(a)[:size], rng.permutation(b)[:size]) for _ in range(num_subsets)]
    return float(np.mean(values)), float(np.std(values))


def _mmd2(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


@dataclass(frozen=True)
class Interval:
    """An estimate, the estimate less its bias, and a 95 % bootstrap interval."""

    value: float
    corrected: float
    low: float
    high: float


def bootstrap_frechet(reference: np.ndarray, features: np.ndarray, *, num_draws: int = 100, seed: int = 0) -> Interval:
    """Frechet distance with a 95 % basic bootstrap interval, both sets resampled.

    A finite sample raises the distance, and a resampled one raises it once more by as much; so twice the estimate less the draws' mean is
    free of that bias, and the basic interval (2 x estimate - quantiles) lies about it, often wholly below the estimate.
    """
    rng = np.random.default_rng(seed)

    def resampled(x: np.ndarray) -> Gaussian:
        return Gaussian.of(x[rng.integers(len(x), size=len(x))])

    value = frechet_distance(Gaussian.of(reference), Gaussian.of(features))
    draws = [frechet_distance(resampled(reference), resampled(features)) for _ in range(num_draws)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(2 * value - np.mean(draws)), float(2 * value - high), float(2 * value - low))
