"""How much of each step is computed: presets by name. This file needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jointnet.errors import RangeError, UnknownNameError
from jointnet.sampling.solvers import SCHEDULERS, scheduler_like


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a run computes, and what it takes over from an earlier step.

    Attributes:
        steps: where a run does not say how many.
        solver: a name in SCHEDULERS; None: the model's own.
        guided: the steps that are guided, from the first share of all up to the second (Kynkaanniemi et al., 2024).
        guides_dense: the dense branches run with the negative prompt too; without, they read the prompt alone.
        deep_every: the deep layers run every so many steps, the shallow ones on each (Ma et al., 2024, DeepCache).
        layers: upward layers that count as shallow.
        tolerance: the deep layers also run where the first layers' output has changed by more than this share of it since they last did.
        rests_every: branches that may rest run every so many steps: those that are wholly known, or else the dense ones.
        stride: of a large canvas's windows, as a share of a window, where a run does not say; None: half a window (Sec. 4.2).
        alone_share: of the first steps, in which a large canvas is denoised at once, without windows.
    Raises: RangeError, UnknownNameError.
    """

    steps: int = 50
    solver: str | None = None
    guided: tuple[float, float] = (0.0, 1.0)
    guides_dense: bool = True
    deep_every: int = 1
    layers: int = 1
    tolerance: float | None = None
    rests_every: int = 1
    stride: float | None = None
    alone_share: float = 0.0

    def __post_init__(self) -> None:
        if self.solver is not None and self.solver not in SCHEDULERS:
            raise UnknownNameError(f"got solver {self.solver!r}; expected one of {', '.join(SCHEDULERS)}")
        if not 0 <= self.guided[0] <= self.guided[1] <= 1:
            raise RangeError(f"got guided = {self.guided}; expected two shares of the steps, such as (0, 0.8)")
        if not (self.stride is None or 0 < self.stride <= 1) or not 0 <= self.alone_share <= 1:
            raise RangeError(f"got stride = {self.stride}, alone_share = {self.alone_share}; expected shares of a window and of the steps")
        counts = {"steps": self.steps, "deep_every": self.deep_every, "layers": self.layers, "rests_every": self.rests_every}
        for name, value in counts.items():
            if value < 1:
                raise RangeError(f"got {name} = {value}; expected at least 1")

    @property
    def takes_over(self) -> bool:
        """True if a step uses what earlier ones computed, or leaves a branch's guidance out."""
        return self.deep_every > 1 or self.rests_every > 1 or not self.guides_dense

    @property
    def period(self) -> int:
        """Steps after which everything was computed anew: windows of a canvas stay where they are as long."""
        return max(self.deep_every, self.rests_every)

    def is_guided(self, index: int, count: int) -> bool:
        """True if step ``index`` of ``count`` is."""
        return self.guided[0] * count <= index < self.guided[1] * count

    def scheduler_for(self, own: Any, *, has_latents: bool) -> Any:
        """The solver, with the noise levels of a model's own; its own without one. Raises: UnsupportedBaseError."""
        return own if self.solver is None else scheduler_like(own, self.solver, has_latents=has_latents)


SPEEDS: Mapping[str, Speed] = MappingProxyType(
    {
        "balanced": Speed(steps=25, solver="dpm++", guides_dense=False),
        "fast": Speed(steps=12, solver="dpm++", guides_dense=False, guided=(0.0, 0.7), deep_every=2, layers=2),
    }
)
"""By name. What each costs and changes is not measured yet."""

SPEED_NAMES = ("exact", *SPEEDS)
"""In "exact" every step computes everything: there is no Speed."""


def get_speed(name: str) -> Speed:
    """A preset. Raises: UnknownNameError."""
    if name not in SPEEDS:
        raise UnknownNameError(f"got speed {name!r}; expected one of {', '.join(SPEED_NAMES)}")
    return SPEEDS[name]
