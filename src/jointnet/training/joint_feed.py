"""What a joint network is trained on: samples of a source, framed, labelled, encoded, with every draw of a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
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
    text: Text | None = None
    shown: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Item:
    """One reading of a sample.

    Attributes:
        maps: by modality (c, H, W), of a sample that is encoded when it is trained on.
        latents: (M, C, h, w), of one that was encoded before.
        text: one row, of a caption that was encoded before.
        shown: by modality (c, H, W), maps that the objective reads as they are.
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
    text: Text | None = None
    shown: Mapping[str, Tensor] | None = None
    bad: BadSampleError | None = None


@dataclass(frozen=True)
class JointBatch:
    """A batch before and after it is encoded.

    Attributes:
        maps: by modality (B, c, H, W); None once they are encoded.
        x0: clean states (B, M, C, h, w).
        captions: those that were drawn.
        no_text: (B,), True where the prompt is dropped or, once it is prepared, empty.
        tokens: (B, K, L), once it is prepared.
        text: encoded prompts; None where the text encoder is trained along.
        shown: by modality (B, c, H, W), maps that the objective reads as they are.
        is_good: (B,), False for samples that could not be read, whose states are zeros.
    """

    maps: Mapping[str, Tensor] | None
    x0: Tensor | None
    captions: Sequence[str]
    no_text: Tensor
    size_ids: Tensor
    draws: Draws
    is_good: Tensor
    bad: Sequence[tuple[str, BadSampleError]] = ()
    tokens: Tensor | None = None
    text: Text | None = None
    shown: Mapping[str, Tensor] | None = None


class JointFeed:
    """A Feed of a source, or of its store of latents. What is sent to the loader's workers is without networks.

    Args:
        size: of the training pictures, (height, width), without buckets.
        labels: labelers by modality; the source's own maps of these are not read.
        store: encoded samples; without it a sample is read, labelled and encoded each time.
        buckets: the rows of each of ``sizes``; None: all are of ``size``.
        shown: modalities whose maps the objective also reads as they are; the source has them.
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
        shown: Sequence[str] = (),
    ) -> None:
        self.source, self.modalities, self.config, self.rule, self.codec = source, tuple(modalities), config, rule, codec
        self.channels, self.factor = codec.channels, codec.factor
        self.text_encoder, self.unconditional, self.size = text_encoder, unconditional, size
        self.labels, self.store, self.sizes = dict(labels or {}), store, sizes
        self.buckets = buckets
        self.bad_samples, self.shown = bad_samples, tuple(shown)
        self._size_of_row = None if buckets is None or sizes is None else sizes_of_rows(buckets, len(source))
        self._no_tokens: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        networks = {"codec": None, "text_encoder": None, "unconditional": None, "labels": dict.fromkeys(self.labels)}
        return {**self.__dict__, **networks}

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
            read = self._read(row, size, generator) if self.store is None else self._stored(self.store, row, size, caption01)
        except BadSampleError as error:
            read, bad = _Read(self.id_of(row), ("",), torch.zeros(6)), error
        shape = (1, len(self.modalities), self.channels, size[0] // self.factor, size[1] // self.factor)
        draws = self.rule.draw(shape, generator)
        caption = read.captions[int(caption01 * len(read.captions))]
        return Item(read.id, caption, is_dropped, read.size_ids, draws, size, read.maps, read.latents, read.text, read.shown, bad)

    def _size_of(self, row: int) -> tuple[int, int]:
        if self._size_of_row is None or self.sizes is None:
            return self.size
        return self.sizes[int(self._size_of_row[row])]

    def _stored(self, store: LatentStore, number: int, size: tuple[int, int], caption01: float) -> _Read:
        row = store.row(number)
        if row.bad is not None:
            raise BadSampleError(row.message, row.bad)
        latents = store.latents(number, self.channels, (size[0] // self.factor, size[1] // self.factor))
        text = store.text(number, int(caption01 * len(row.captions))) if self.config.caches_text else None
        frame = Frame(row.corner, row.extent, row.size)
        shown = framed(self.source.read(number, self.shown), frame) if self.shown else None
        return _Read(row.id, row.captions, frame.size_ids(row.original), latents=latents, text=text, shown=shown)

    def _read(self, row: int, size: tuple[int, int], generator: torch.Generator) -> _Read:
        sample = self.source.read(row, list(dict.fromkeys((*(name for name in self.modalities if name not in self.labels), *self.shown))))
        height, width = sample.maps["rgb"].shape[-2:]
        frame = largest_frame((height, width), size, generator if self.config.crop == "random" else None)
        maps = framed(sample, frame)
        shown = {name: maps[name] for name in self.shown} or None
        trained = {name: map_ for name, map_ in maps.items() if name in self.modalities}
        return _Read(sample.id, sample.captions, frame.size_ids(sample.original_size), maps=trained, shown=shown)

    def collate(self, items: Sequence[Item]) -> JointBatch:
        """Bad samples become zeros that do not count."""
        good = next((item for item in items if item.bad is None), None)
        maps, x0 = _stacked([item.maps for item in items]), None
        if good is not None and good.latents is not None:
            x0 = torch.stack([torch.zeros_like(good.latents) if item.latents is None else item.latents for item in items])
        return JointBatch(
            maps,
            x0,
            [item.caption for item in items],
            torch.tensor([item.is_dropped for item in items]),
            torch.stack([item.size_ids for item in items]),
            concat_draws([item.draws for item in items]),
            torch.tensor([item.bad is None for item in items]),
            [(item.id, item.bad) for item in items if item.bad is not None],
            text=self._stored_text(items) if self.config.caches_text else None,
            shown=_stacked([item.shown for item in items]),
        )

    def _stored_text(self, items: Sequence[Item]) -> Text | None:
        """Texts of the items, zeros for bad ones; None if all are bad."""
        good = next((item.text for item in items if item.text is not None), None)
        if good is None:
            return None
        texts = [good.zeros_like() if item.text is None else item.text for item in items]
        return reduce(Text.concat, texts)

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
        batch = replace(batch, maps=None, x0=x0.to(device, torch.float32))
        if self._no_tokens is None:
            self._no_tokens = self.text_encoder.tokenize([""])
        tokens = tokenized(self.text_encoder, batch.captions)
        batch = replace(batch, tokens=tokens, no_text=batch.no_text | (tokens == self._no_tokens).flatten(1).all(1))
        return batch if self.config.trains_text_encoder else replace(batch, text=self.encode_text(batch))

    def encode_text(self, batch: JointBatch) -> Text:
        """Encode the prompts; where there is none, the text is that of no prompt, the same for all branches."""
        if batch.text is None:
            assert batch.tokens is not None, "the batch was prepared"
            text = self.text_encoder.encode(batch.tokens)
        else:
            text = batch.text.map(lambda value: value.to(self.unconditional.embeds.device))
        text = text.where(batch.no_text, self.unconditional)
        return replace(text, added={**text.added, "time_ids": batch.size_ids.to(text.embeds.device)})


def _stacked(maps: Sequence[Mapping[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """Maps of all items by name, zeros for items that have none; None if nobody has any."""
    good = next((one for one in maps if one is not None), None)
    if good is None:
        return None
    empty = {name: torch.zeros_like(map_) for name, map_ in good.items()}
    return {name: torch.stack([(one or empty)[name] for one in maps]) for name in good}


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


def tokenized(text_encoder: PromptEncoder, captions: Sequence[str]) -> Tensor:
    """Return the tokens (B, K, L) of captions; of those too long nobody is warned: data often has them, and they come again each epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        return text_encoder.tokenize(captions)


def count_bad(bad_samples: BadSamples, batch: JointBatch) -> None:
    """Count a batch's samples. Raises: DataFolderError if too many are bad."""
    bad_samples.add_good(int(batch.is_good.sum()))
    for id_, error in batch.bad:
        bad_samples.add_bad(id_, error)
    bad_samples.check()


def sizes_of_rows(buckets: Sequence[Any], num_rows: int) -> Any:
    """Return the number of each row's bucket (N,)."""
    import numpy as np

    numbers = np.zeros(num_rows, np.uint16)
    for number, rows in enumerate(buckets):
        numbers[rows] = number
    return numbers
