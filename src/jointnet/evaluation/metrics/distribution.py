"""Distances between two sets of feature vectors (N, D), and scores of one; which features they are of decides on their name.

Frechet distance (FID on Inception, FD-DINOv2 on DINOv2), kernel distance (KID), CMMD (on CLIP), precision and recall, Inception score.
"""

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


class Moments:
    """Mean and covariance of features that come in parts, in memory that does not grow with them; parts of other processes are merged.

    >>> a, b = Moments(), Moments()
    >>> a.add(np.array([[0.0, 1.0], [2.0, 3.0]]))
    >>> b.add(np.array([[4.0, 8.0]]))
    >>> a.merge(b)
    >>> a.count, a.gaussian().mean.tolist()
    (3, [2.0, 4.0])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray | float = 0.0
        self.scatter: np.ndarray | float = 0.0
        """Sum of outer products of what differs from the mean, (D, D)."""

    def add(self, features: np.ndarray) -> None:
        """Add (N, D) features."""
        if len(features):
            features = np.asarray(features, np.float64)
            other, other.count, other.mean = Moments(), len(features), features.mean(0)
            centred = features - other.mean
            other.scatter = centred.T @ centred
            self.merge(other)

    def merge(self, other: Moments) -> None:
        """Add the features of another. Source: Chan et al. (1979), pairwise update of the sums of squares."""
        if not other.count:
            return
        total = self.count + other.count
        step = np.asarray(other.mean) - self.mean
        self.mean = self.mean + step * other.count / total
        self.scatter = self.scatter + other.scatter + np.outer(step, step) * self.count * other.count / total
        self.count = total

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance. Raises: ValueError for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"got {self.count} features; expected at least 2")
        return Gaussian(np.asarray(self.mean), np.asarray(self.scatter) / (self.count - 1))


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
    chosen = [(a[rng.permutation(len(a))[:size]], b[rng.permutation(len(b))[:size]]) for _ in range(num_subsets)]
    values = [_mmd2(x.astype(np.float64), y.astype(np.float64)) for x, y in chosen]
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


CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def cmmd(a: np.ndarray, b: np.ndarray, *, sigma: float = CMMD_SIGMA, scale: float = CMMD_SCALE, block: int = 1024) -> float:
    """1000 x the squared MMD with the kernel exp(-|x - y|^2 / (2 sigma^2)), of CLIP embeddings of length 1 (N, D).

    The estimate with the diagonals, as its authors publish it; computed in blocks. Source: Jayasumana et al. (2024, "Rethinking FID").

    >>> x = np.eye(4)
    >>> cmmd(x, x)
    0.0
    """

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        total, squares = 0.0, (y**2).sum(1)
        for start in range(0, len(x), block):
            part = x[start : start + block]
            distances = (part**2).sum(1)[:, None] + squares - 2 * part @ y.T
            total += float(np.exp(-distances.clip(0) / (2 * sigma**2)).sum())
        return total / (len(x) * len(y))

    return scale * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of what was made that lies among the reference, and of the reference that lies among what was made."""

    precision: float
    recall: float


def precision_recall(reference: np.ndarray, features: np.ndarray, *, neighbours: int = 3, block: int = 1024) -> PrecisionRecall:
    """Precision and recall of manifolds: a set's manifold is the balls around its points that reach to their k-th neighbours.

    Source: Kynkaanniemi et al. (2019), Eq. 1 and 2, k = 3.

    >>> a = np.arange(10.0)[:, None]
    >>> precision_recall(a, a), precision_recall(a, a + 100)
    (PrecisionRecall(precision=1.0, recall=1.0), PrecisionRecall(precision=0.0, recall=0.0))

    Raises: ValueError if a set has no k neighbours.
    """
    if min(len(reference), len(features)) <= neighbours:
        raise ValueError(f"got {min(len(reference), len(features))} features; expected more than {neighbours}, the number of neighbours")

    def radii(x: np.ndarray) -> np.ndarray:
        parts = [np.partition(_distances(x[i : i + block], x), neighbours, axis=1)[:, neighbours] for i in range(0, len(x), block)]
        return np.concatenate(parts)

    def share_within(x: np.ndarray, y: np.ndarray, of_y: np.ndarray) -> float:
        inside = [(_distances(x[i : i + block], y) <= of_y).any(1) for i in range(0, len(x), block)]
        return float(np.concatenate(inside).mean())

    return PrecisionRecall(share_within(features, reference, radii(reference)), share_within(reference, features, radii(features)))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared (N, M), not below 0."""
    return ((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T).clip(0)


def inception_score(probabilities: np.ndarray, *, splits: int = 10, seed: int | None = None) -> tuple[float, float]:
    """exp of the mean KL(p(y | x) || p(y)), mean and standard deviation over splits; probabilities (N, classes).

    Args:
        seed: the order in which rows go into the splits; None: as they are.
    Source: Salimans et al. (2016), Sec. 4.

    >>> inception_score(np.eye(4), splits=1)
    (4.0, 0.0)

    Raises: ValueError for fewer rows than splits.
    """
    if len(probabilities) < splits:
        raise ValueError(f"got {len(probabilities)} pictures for {splits} splits; expected at least as many")
    if seed is not None:
        probabilities = np.random.default_rng(seed).permutation(probabilities)
    scores = []
    for part in np.array_split(probabilities, splits):
        marginal = part.mean(0, keepdims=True)
        tiny = np.finfo(np.float64).tiny
        divergence = (part * (np.log(part.clip(tiny)) - np.log(marginal.clip(tiny)))).sum(1).mean()
        scores.append(float(np.exp(divergence)))
    return float(np.mean(scores)), float(np.std(scores))
