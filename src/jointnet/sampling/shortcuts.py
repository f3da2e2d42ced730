"""Which shortcut each call of a run takes, and what is kept for the calls after it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from jointnet.sampling.speed import Speed
from jointnet.types import Conditioning, Kept, Known, Shortcut, Step


@dataclass
class _Place:
    """What is kept of one place, and the steps in which its deep layers, and its branches that may rest, last ran."""

    kept: Kept
    deep_at: int
    all_at: int


@dataclass
class Shortcuts:
    """The shortcuts of one run.

    Attributes:
        speed: what may be left out; modalities: of the network, "rgb" first.
    """

    speed: Speed
    modalities: tuple[str, ...]
    _places: dict[tuple[Hashable, int], _Place] = field(default_factory=dict)

    def of(self, x: Tensor, step: Step, conditioning: Conditioning) -> Shortcut | None:
        """The shortcut of one call on rows x (B, M, C, H, W); None: it takes none.

        What is kept belongs to a place and a number of rows: guided and unguided calls keep their own.
        """
        speed = self.speed
        if not speed.takes_over:
            return None
        unguided = conditioning.is_pair and not speed.guides_dense
        if speed.deep_every == speed.rests_every == 1:
            return Shortcut(unguided=unguided)
        key = (step.place, len(x))
        place = self._places.get(key)
        is_shallow = place is not None and 0 <= step.index - place.deep_at < speed.deep_every
        rests = place is not None and 0 <= step.index - place.all_at < speed.rests_every
        is_shallow &= rests or speed.rests_every == 1  # who wakes up, wakes up whole
        if place is None:
            self._forget(step.index)
            place = self._places[key] = _Place(Kept(), step.index, step.index)
        place.deep_at = place.deep_at if is_shallow else step.index
        place.all_at = place.all_at if rests else step.index
        return Shortcut(
            unguided=unguided,
            layers=speed.layers if speed.deep_every > 1 else 0,
            is_shallow=is_shallow,
            tolerance=speed.tolerance,
            resting=self._resting(conditioning.known) if rests else frozenset(),
            keeps_sent=speed.rests_every > 1,
            kept=place.kept,
        )

    def _resting(self, known: Known | None) -> frozenset[str]:
        if known is not None:
            asked = known.asked.any(4).any(3).any(2).any(0)  # (M,)
            wholly_known = frozenset(name for name, is_asked in zip(self.modalities, asked.tolist(), strict=True) if not is_asked)
            if wholly_known:
                return wholly_known
        return frozenset(self.modalities[1:])

    def _forget(self, index: int) -> None:
        """Drop what no later call can use: windows that moved on."""
        oldest = index - self.speed.period
        self._places = {key: place for key, place in self._places.items() if min(place.deep_at, place.all_at) > oldest}
