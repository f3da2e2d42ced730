"""What a joint network is trained on: samples of a source, framed, labelled, encoded, with every draw of a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.data.bad_samples import BadSamples
from jointnet.data.framing import Frame, largest_frame
from jointnet.data.labelers.labeler import Labeler, label
from jointnet.data.latents import LatentStore
from jointnet.data.sample import Sample, Source
from jointnet.errors import BadSampleError, PromptTruncatedWarning
from jointnet.text.prompts import PromptEncoder
from jointnet.training.config import TrainConfig
from jointnet.training.draws import DrawRule, Draws, concat_draws
from jointnet.types import Text


class _Read(NamedTuple):
    """What was read of a row, see ``Item``."""

    id: str
    captions: tuple[str, ...]
    size_ids: Tensor
    maps: Mapping[str, Tensor] | None = None
    latents: Tensor | None = None


@dataclass(frozen=True)
class Item:
    """One reading of a sample.

    Attributes:
        maps: by modality (c, H, W), of a sample that is encoded when it is trained on.
        latents: (M, C, h, w), of one that was encoded before.
        bad: why it cannot be used; it then has neither maps nor latents.
    """

    id: str
    caption: str
    is_dropped: bool
    size_ids: Tensor
    draws: Draws
    size: tuple[int, int]
    maps: Mapping[str, Tensor] | None = None
    latents: Tensor | None = None
    bad: BadSampleError | None = None


@dataclass(frozen=True)
class JointBatch:
    """A batch before and after it is encoded.

    Attributes:
        maps: by modality (B, c, H, W); None once they are encoded.
        x0: clean states (B, M, C, h, w).
        tokens: (B, K, L).
        no_text: (B,), True where the prompt is dropped or empty.
        text: encoded prompts; None where the text encoder is trained along.
        is_good: (B,), False for samples that could not be read, whose states are zeros.
    """

    maps: Mapping[str, Tensor] | None
    x0: Tensor | None
    tokens: Tensor
    no_text: Tensor
    size_ids: Tensor
    draws: Draws
    is_good: Tensor
    bad: Sequence[tuple[str, BadSampleError]] = ()
    text: Text | None = None


class JointFeed:
    """A Feed of a source, or of its store of latents.

    Args:
        size: of the training pictures, (height, width), without buckets.
        labels: labelers by modality; the source's own maps of these are not read.
        store: encoded samples; without it a sample is read, labelled and encoded each time.
        buckets: the rows of each of ``sizes``; None: all are of ``size``.
    """

    def __init__(
        self,
        source: Source,
        modalities: Sequence[str],
        config: TrainConfig,
        rule: DrawRule,
        codec: Codec,
        text_encoder: PromptEncoder,
        unconditional: Text,
        size: tuple[int, int],
        *,
        labels: Mapping[str, Labeler] | None = None,
        store: LatentStore | None = None,
        buckets: Sequence[Any] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        bad_samples: BadSamples | None = None,
    ) -> None:
        self.source, self.modalities, self.config, self.rule, self.codec = source, tuple(modalities), config, rule, codec
        self.text_encoder, self.unconditional, self.size = text_encoder, unconditional, size
        self.labels, self.store, self.sizes = dict(labels or {}), store, sizes
        self.buckets = buckets
        self.bad_samples = bad_samples
        self._size_of_row = None if buckets is None or sizes is None else _sizes_of_rows(buckets, len(source))
        self._no_tokens: Tensor | None = None

    @property
    def blocks(self) -> Sequence[int]:
        return self.source.blocks

    def id_of(self, row: int) -> str:
        return self.source.id_of(row)

    def item(self, row: int, generator: torch.Generator) -> Item:
        """Draw in this order: text drop, caption, crop, then the step's own."""
        is_dropped = bool(torch.rand((), generator=generator) < self.config.text_drop)
        caption01 = float(torch.rand((), generator=generator))
        size = self._size_of(row)
        bad = None
        try:
            read = self._read(row, size, generator) if self.store is None else self._stored(self.store, row, size)
        except BadSampleError as error:
            read, bad = _Read(self.id_of(row), ("",), torch.zeros(6)), error
        shape = (1, len(self.modalities), self.codec.channels, size[0] // self.codec.factor, size[1] // self.codec.factor)
        draws = self.rule.draw(shape, generator)
        caption = read.captions[int(caption01 * len(read.captions))]
        return Item(read.id, caption, is_dropped, read.size_ids, draws, size, read.maps, read.latents, bad)

    def _size_of(self, row: int) -> tuple[int, int]:
        if self._size_of_row is None or self.sizes is None:
            return self.size
        return self.sizes[int(self._size_of_row[row])]

    def _stored(self, store: LatentStore, number: int, size: tuple[int, int]) -> _Read:
        row = store.row(number)
        if row.bad is not None:
            raise BadSampleError(row.message, row.bad)
        factor = self.codec.factor
        latents = store.latents(number, self.codec.channels, (size[0] // factor, size[1] // factor))
        return _Read(row.id, row.captions, Frame(row.corner, row.extent, row.size).size_ids(row.original), latents=latents)

    def _read(self, row: int, size: tuple[int, int], generator: torch.Generator) -> _Read:
        sample = self.source.read(row, [name for name in self.modalities if name not in self.labels])
        height, width = sample.maps["rgb"].shape[-2:]
        frame = largest_frame((height, width), size, generator if self.config.crop == "random" else None)
        return _Read(sample.id, sample.captions, frame.size_ids(sample.original_size), maps=framed(sample, frame))

    def collate(self, items: Sequence[Item]) -> JointBatch:
        """Bad samples become zeros that do not count."""
        names = next((list(item.maps) for item in items if item.maps is not None), [])
        good = next((item for item in items if item.bad is None), None)
        maps, x0 = None, None
        if good is not None and good.maps is not None:
            empty = {name: torch.zeros_like(map_) for name, map_ in good.maps.items()}
            maps = {name: torch.stack([(item.maps or empty)[name] for item in items]) for name in names}
        elif good is not None and good.latents is not None:
            x0 = torch.stack([torch.zeros_like(good.latents) if item.latents is None else item.latents for item in items])
        if self._no_tokens is None:
            self._no_tokens = self.text_encoder.tokenize([""])
        tokens = self._tokenized([item.caption for item in items])
        is_empty = (tokens == self._no_tokens).flatten(1).all(1)
        return JointBatch(
            maps,
            x0,
            tokens,
            torch.tensor([item.is_dropped for item in items]) | is_empty,
            torch.stack([item.size_ids for item in items]),
            concat_draws([item.draws for item in items]),
            torch.tensor([item.bad is None for item in items]),
            [(item.id, item.bad) for item in items if item.bad is not None],
        )

    def _tokenized(self, captions: Sequence[str]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptTruncatedWarning)  # captions of data are longer often, and come again each epoch
            return self.text_encoder.tokenize(captions)

    def prepare(self, batch: JointBatch, device: torch.device) -> JointBatch:
        """Label and encode what is not yet encoded. Raises: DataFolderError if too many samples are bad."""
        if self.bad_samples is not None and self.store is None:
            count_bad(self.bad_samples, batch)
        x0 = batch.x0
        if batch.maps is not None:
            maps = {name: value.to(device) for name, value in batch.maps.items()}
            x0 = encoded(maps, self.modalities, self.labels, self.codec)
        if x0 is None:  # not one good sample
            x0 = torch.zeros_like(batch.draws.noise)
        text = None if self.config.trains_text_encoder else self.encode_text(batch)
        return replace(batch, maps=None, x0=x0.to(device, torch.float32), text=text)

    def encode_text(self, batch: JointBatch) -> Text:
        """Encode the prompts; where there is none, the text is that of no prompt, the same for all branches."""
        text = self.text_encoder.encode(batch.tokens).where(batch.no_text, self.unconditional)
        return replace(text, added={**text.added, "time_ids": batch.size_ids.to(text.embeds.device)})


def framed(sample: Sample, frame: Frame) -> dict[str, Tensor]:
    """Return a sample's maps, each cut to a frame and resized."""
    return {name: frame.cut(name, map_) for name, map_ in sample.maps.items()}


@torch.no_grad()
def encoded(maps: Mapping[str, Tensor], modalities: Sequence[str], labels: Mapping[str, Labeler], codec: Codec) -> Tensor:
    """Label pictures and encode all maps. Shapes: by modality (B, c, H, W) -> (B, M, C, h, w), float32.

    Raises: LabelerError, and what labelers raise.
    """
    complete = {**maps, **{name: label(labeler, maps["rgb"]) for name, labeler in labels.items()}}
    return torch.stack([codec.encode(name, complete[name]).float() for name in modalities], 1)


def count_bad(bad_samples: BadSamples, batch: JointBatch) -> None:
    """Count a batch's samples. Raises: DataFolderError if too many are bad."""
    bad_samples.add_good(int(batch.is_good.sum()))
    for id_, error in batch.bad:
        bad_samples.add_bad(id_, error)
    bad_samples.check()


def _sizes_of_rows(buckets: Sequence[Any], num_rows: int) -> Any:
    """Return the number of each row's bucket (N,)."""
    import numpy as np

    numbers = np.zeros(num_rows, np.uint16)
    for number, rows in enumerate(buckets):
        numbers[rows] = number
    return numbers
