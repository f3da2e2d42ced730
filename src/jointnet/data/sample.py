"""One training sample, and a source of them that is read by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """A picture with its dense maps and captions.

    Attributes:
        id: unique in its source; it stays when the source is moved, so that the draws of the sample do.
        maps: by modality, (c, H, W) each, in the range its modality states, all of the picture's size; "rgb" is among them.
        captions: one or more; training draws one each time. A single "" where there is none to learn from.
        original_size: height and width of the picture as it was before anything was resized or cut.
    """

    id: str
    maps: Mapping[str, Tensor]
    captions: tuple[str, ...]
    original_size: tuple[int, int]


@runtime_checkable
class Source(Protocol):
    """A data set, read by rows; a picture is decoded once a reading.

    It is sent to the workers of a loader, so it can be pickled, and opens its files where it is read.
    """

    def __len__(self) -> int:
        """Number of rows. Known without reading the rows."""
        ...

    @property
    def blocks(self) -> Sequence[int]:
        """Numbers of consecutive rows that lie together (in one shard), in order; their sum is ``len``. A folder is one block."""
        ...

    def id_of(self, row: int) -> str:
        """Return the id of a row without reading its files."""
        ...

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        """Read a row with the maps of these modalities.

        Raises: BadSampleError if this row cannot be used (its ``reason`` is a short kind, by which such rows are counted);
            another JointNetError if none can: the disk is gone, a shard cannot be read.
        """
        ...

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return hashes by which the data are known, one a modality and one for "captions"; they stay when the data are moved."""
        ...

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which all depth maps read 1, where the source knows it."""
        ...
