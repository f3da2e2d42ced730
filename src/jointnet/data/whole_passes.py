"""TO BE DELETED with ``encode_source``: a Source as the MapSource that it replaces. Training by rows needs none of this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from jointnet.data.sample import Sample
from jointnet.errors import BadSampleError, DataFolderError
from jointnet.modalities.modality import get_modality
from jointnet.types import size_ids

if TYPE_CHECKING:
    from jointnet.data.sample import Source as _Source
else:
    _Source = object


class WholePasses(_Source):
    """Captions, maps and sizes of all samples, each map cut to its middle square and resized to ``side`` px; no sample may be bad."""

    @property
    def side(self) -> int:
        """Height and width of the maps."""
        raise NotImplementedError

    def captions(self) -> list[list[str]]:
        """Return as many lists as the longest list of a sample's captions; shorter ones repeat theirs. Raises: DataFolderError."""
        texts = [sample.captions for sample in self._all(())]
        return [[lines[draw % len(lines)] for lines in texts] for draw in range(max(len(lines) for lines in texts))]

    def fingerprints(self, modalities: Sequence[str]) -> dict[str, str]:
        """Return texts that change with the maps of a modality and the side. Raises: DataFolderError."""
        contents = self.contents(modalities)
        return {name: f"{contents[name]} at {self.side} px" for name in modalities}

    def maps(self, modality: str) -> Iterator[Tensor]:
        """Yield all maps of a modality, (c, side, side) each. Raises: DataFolderError."""
        for sample in self._all((modality,)):
            yield get_modality(modality).resize(_middle(sample.maps[modality][None]), (self.side, self.side))[0]

    def size_ids(self) -> Tensor:
        """Return each picture's own size, and where its middle square begins once it is resized (N, 6)."""
        return torch.cat([_square_ids(sample.original_size, self.side) for sample in self._all(())])

    def _all(self, modalities: Sequence[str]) -> Iterator[Sample]:
        for row in range(len(self)):
            try:
                yield self.read(row, modalities)
            except BadSampleError as error:
                raise DataFolderError(str(error)) from error


def _square_ids(original: tuple[int, int], size: int) -> Tensor:
    height, width = original
    scale = size / min(height, width)
    crop = (round((height - min(original)) / 2 * scale), round((width - min(original)) / 2 * scale))
    return size_ids((size, size), (height, width), crop)


def _middle(maps: Tensor) -> Tensor:
    """Cut maps (B, c, H, W) to their middle square."""
    height, width = maps.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return maps[..., top : top + side, left : left + side]
