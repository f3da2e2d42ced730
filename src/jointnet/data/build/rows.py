"""What is built from: rows of an input, cut into units of which each becomes one shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from torch import Tensor

from jointnet.data.build.download import Downloader


@dataclass(frozen=True)
class Unit:
    """Consecutive rows [start, stop) of one part of an input, such as a file; ``first`` is the number of the first one in the input."""

    number: int
    part: int
    start: int
    stop: int
    first: int

    @property
    def name(self) -> str:
        """Name of the unit's shard, without a suffix."""
        return f"{self.number:06d}"


@dataclass(frozen=True)
class Loaded:
    """What a row leads to.

    Attributes:
        content: bytes of the picture.
        maps: of other modalities, (c, H, W) each, of the picture's size.
        original_size: height and width before an earlier build shrank the picture; None: as it is.
    """

    content: bytes
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    original_size: tuple[int, int] | None = None


class Row(Protocol):
    """A row that may become a sample."""

    @property
    def id(self) -> str:
        """A row with the id of an earlier one is a duplicate."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Metadata that filters read."""
        ...

    @property
    def url(self) -> str | None:
        """Where the picture comes from."""
        ...

    def captions(self) -> Sequence[str]:
        """Return the captions. Raises: BadSampleError if there is none."""
        ...

    def load(self, downloader: Downloader) -> Loaded:
        """Get picture and maps. Raises: BadSampleError; another JointNetError if no row can be read."""
        ...


class Rows(Protocol):
    """An input. It can be pickled, and opens its files where it is read."""

    @property
    def modalities(self) -> Sequence[str]:
        """Maps that come with the rows, without "rgb"."""
        ...

    @property
    def is_remote(self) -> bool:
        """Rows are waited for rather than computed, so that many are loaded at once."""
        ...

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which all depth maps read 1, where it is known."""
        ...

    def units(self, num_rows: int) -> Sequence[Unit]:
        """Cut the rows into units of so many; always the same ones for the same input. Raises: DataFolderError."""
        ...

    def ids(self) -> Iterator[Sequence[str]]:
        """Yield the ids of all rows in order, in batches; none where no two can be equal. Raises: DataFolderError."""
        ...

    def read(self, unit: Unit) -> Iterator[Row]:
        """Yield the rows of a unit in order. Raises: DataFolderError."""
        ...

    def identity(self) -> Any:
        """Return JSON that changes with the input, so that a build does not go on with another one."""
        ...


def units_of(sizes: Sequence[int], num_rows: int) -> list[Unit]:
    """Cut parts of so many rows each into units of ``num_rows``; the last one of a part may be smaller."""
    before = accumulate(sizes, initial=0)
    cuts = [
        (part, start, min(start + num_rows, size), first + start)
        for part, (size, first) in enumerate(zip(sizes, before, strict=False))
        for start in range(0, size, num_rows)
    ]
    return [Unit(number, *cut) for number, cut in enumerate(cuts)]
