"""Samples that cannot be used, counted by reason, and the share of them that a pass may have."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from jointnet.errors import BadSampleError, DataFolderError, RangeError

MIN_READ = 1000
"""Samples that are read before their share of bad ones counts; fewer may be bad by chance."""

NUM_NAMES = 5
"""Names that are remembered of each reason."""


def parse_share(text: str) -> float:
    """Return a share in [0, 1]: "1%" and "0.01" are the same. Raises: RangeError."""
    words = text.strip()
    try:
        share = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise RangeError(f"got share {text!r}; expected a percentage from 0% to 100%, such as 1%, or a number from 0 to 1, such as 0.01")
    return share


@dataclass
class BadSamples:
    """Counter of one pass over a data set. It is small, and can be sent to another process and merged there.

    Attributes:
        limit: share of the samples that may be bad.
        total: samples of the pass.
        num_read: samples that were read until now, good or bad.
    """

    limit: float
    total: int
    num_read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_bad(self) -> int:
        """Number of samples that cannot be used."""
        return self.counts.total()

    def add_good(self, count: int = 1) -> None:
        """Count samples that were read."""
        self.num_read += count

    def add_bad(self, id_: str, error: BadSampleError) -> None:
        """Count a sample that cannot be used."""
        self.num_read += 1
        self.counts[error.reason] += 1
        self._remember(error.reason, [id_])

    def merge(self, other: BadSamples) -> None:
        """Add what another counter of the same pass has counted, such as a worker's."""
        self.num_read += other.num_read
        self.counts.update(other.counts)
        for reason, names in other.names.items():
            self._remember(reason, names)

    def check(self, *, at_end: bool = False) -> None:
        """Raise where too many are bad: of the whole pass, or of those read until now, once they are MIN_READ or all.

        Raises: DataFolderError.
        """
        has_share = self.num_read >= MIN_READ or at_end
        if self.num_bad > self.limit * self.total or (has_share and self.num_bad > self.limit * self.num_read):
            share = self.num_bad / max(self.num_read, 1)
            raise DataFolderError(
                f"got {self.num_bad} of {self.num_read} samples that cannot be used, more than {100 * self.limit:g}%: {self._reasons()}; "
                f"repair or remove them, or leave out more: --max-bad {math.ceil(100 * share)}%"
            )

    def summary(self) -> str:
        """Return one line; empty if all samples are good."""
        return f"left out {self.num_bad} of {self.num_read} samples: {self._reasons()}" if self.num_bad else ""

    def _reasons(self) -> str:
        """Return the reasons, the most frequent one first, with counts and first names."""

        def shown(reason: str, count: int) -> str:
            names = self.names.get(reason, [])
            return f"{count} {reason} ({', '.join(names)}{', ...' if count > len(names) else ''})"

        return ", ".join(shown(reason, count) for reason, count in self.counts.most_common())

    def _remember(self, reason: str, names: list[str]) -> None:
        known = self.names.setdefault(reason, [])
        known += [name for name in names if name not in known][: max(NUM_NAMES - len(known), 0)]
