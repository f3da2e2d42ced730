"""Which rows and pictures are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, WATERMARK, AESTHETIC = "width", "height", "watermark_score", "aesthetic_score_laion_v2"
"""Columns of COYO-700M."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Limits; None takes all.

    Attributes:
        min_side: width and height must be larger, in the metadata and in the picture itself: a dead link may lead to a small substitute.
        max_watermark: the watermark score must be lower.
        min_aesthetic: the aesthetic score must be higher.
    """

    min_side: int | None = None
    max_watermark: float | None = None
    min_aesthetic: float | None = None

    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read."""
        sides = () if self.min_side is None else (WIDTH, HEIGHT)
        scores = ((WATERMARK, self.max_watermark), (AESTHETIC, self.min_aesthetic))
        return (*sides, *(name for name, limit in scores if limit is not None))

    def row_problem(self, row: Mapping[str, Any]) -> str | None:
        """Return why a row is dropped, by its metadata; None if it is taken. A missing score is a reason."""
        if self.min_side is not None and not _all_above((row.get(WIDTH), row.get(HEIGHT)), self.min_side):
            return "filter: size"
        if self.max_watermark is not None and not _number(row.get(WATERMARK), math.inf) < self.max_watermark:
            return "filter: watermark"
        if self.min_aesthetic is not None and not _number(row.get(AESTHETIC), -math.inf) > self.min_aesthetic:
            return "filter: aesthetic score"
        return None

    def is_too_small(self, width: int, height: int) -> bool:
        """Return True for a picture of that size that is dropped."""
        return self.min_side is not None and not _all_above((width, height), self.min_side)


PAPER_FILTERS = Filters(min_side=512, max_watermark=0.5, min_aesthetic=5.0)
"""Width and height above 512 px, watermark score below 0.5, aesthetic score above 5. Source: Sec. 3.3."""


def _all_above(values: Iterable[Any], limit: float) -> bool:
    return all(_number(value, -math.inf) > limit for value in values)


def _number(value: Any, otherwise: float) -> float:
    """Return a finite number, or what stands for none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise
