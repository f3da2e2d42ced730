"""What can be chosen of an evaluated model. This file needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model of this package or of the libraries samples, where it is not as the model has it; a class of a user's has its own.

    Attributes: as ``evaluation.models.adapters.JointNet``'s.
    """

    steps: int | None = None
    ensemble: int | None = None
    size: tuple[int, int] | None = None
    guidance: float | None = None
