"""Encoding a source once, before it is trained on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.data.bad_samples import BadSamples
from jointnet.data.framing import largest_frame
from jointnet.data.labelers.labeler import Labeler
from jointnet.data.latents import LatentStore, Row
from jointnet.data.sample import Source
from jointnet.errors import BadSampleError, DataFolderError
from jointnet.files.fingerprints import of_texts
from jointnet.machine.processes import is_main_process, num_processes, rank
from jointnet.text.prompts import PromptEncoder
from jointnet.training.joint_feed import encoded, framed, tokenized
from jointnet.types import Text

ENCODING_PIXELS = 32 * 128 * 128
"""Of the maps that an autoencoder is shown at once: memory grows with them."""

CAPTIONS_AT_ONCE = 64

_REPORT_EVERY = 20


def latent_store(
    folder: Path, num_rows: int, modalities: Sequence[str], sizes: Sequence[tuple[int, int]], codec: Codec, known_by: Mapping[str, Any]
) -> LatentStore:
    """Return the store of what a codec makes of a source; ``known_by`` may name "data", "labels" and "texts", see ``stage_feed``."""
    known = {name: known_by[name] for name in ("data", "labels", "texts") if name in known_by}
    return LatentStore(folder, num_rows, modalities, of_texts([str(known), str(tuple(modalities)), str(sizes), codec.fingerprint()]))


def encode_source(
    source: Source,
    store: LatentStore,
    sizes: Sequence[tuple[int, int]],
    size_of: np.ndarray | None,
    codec: Codec,
    labels: Mapping[str, Labeler],
    bad_samples: BadSamples,
    text_encoder: PromptEncoder | None = None,
) -> None:
    """Encode what the store does not hold; each process takes its share of the chunks. A chunk that is there is left as it is.

    Args:
        sizes, size_of: sizes of the training pictures (height, width), and the number of each row's; None: all are of the first.
        text_encoder: encodes the captions too.
    Raises: DataFolderError if more samples than the limit are bad; OutputError.
    """
    written: list[int] = []
    try:
        for chunk in range(rank(), store.num_chunks, num_processes()):
            if not store.has(chunk):
                rows, latents = _encode_chunk(source, store, chunk, sizes, size_of, codec, labels)
                store.write(chunk, rows, latents, None if text_encoder is None else _encode_captions(rows, text_encoder))
                written.append(chunk)
                if is_main_process() and (chunk + 1) % _REPORT_EVERY == 0:
                    print(f"encoded {chunk + 1} of {store.num_chunks} parts of the data", file=sys.stderr, flush=True)
            _count(store, chunk, bad_samples)
            bad_samples.check()
        bad_samples.check(at_end=True)
    except DataFolderError:  # the data will be others when they are good
        for chunk in written:
            store.remove(chunk)
        raise
    if is_main_process() and bad_samples.summary():
        print(bad_samples.summary(), file=sys.stderr, flush=True)


def _count(store: LatentStore, chunk: int, bad_samples: BadSamples) -> None:
    for number in store.rows_of(chunk):
        row = store.row(number)
        if row.bad is None:
            bad_samples.add_good()
        else:
            bad_samples.add_bad(row.id, BadSampleError(row.message, row.bad))


def _encode_chunk(
    source: Source,
    store: LatentStore,
    chunk: int,
    sizes: Sequence[tuple[int, int]],
    size_of: np.ndarray | None,
    codec: Codec,
    labels: Mapping[str, Labeler],
) -> tuple[list[Row], dict[str, list[Tensor]]]:
    numbers = store.rows_of(chunk)
    read = [name for name in store.modalities if name not in labels]
    rows: list[Row] = []
    latents: dict[str, list[Tensor]] = {name: [] for name in store.modalities}

    def one(number: int) -> tuple[Row, dict[str, Tensor] | None]:
        size = sizes[0 if size_of is None else int(size_of[number])]
        try:
            sample = source.read(number, read)
        except BadSampleError as error:
            return Row(source.id_of(number), bad=error.reason, message=str(error)), None
        height, width = sample.maps["rgb"].shape[-2:]
        frame = largest_frame((height, width), size)
        row = Row(sample.id, sample.captions, sample.original_size, frame.corner, frame.extent, frame.size)
        return row, framed(sample, frame)

    for batch in _batched(map(one, numbers)):
        rows += [row for row, _ in batch]
        if batch[0][1] is None:
            for values in latents.values():
                values += [torch.empty(0)] * len(batch)
            continue
        maps = {name: torch.stack([maps[name] for _, maps in batch if maps is not None]) for name in batch[0][1]}
        state = encoded(maps, store.modalities, labels, codec)  # (B, M, C, h, w)
        for place, name in enumerate(store.modalities):
            latents[name] += list(state[:, place].cpu())
    return rows, latents


@torch.no_grad()
def _encode_captions(rows: Sequence[Row], text_encoder: PromptEncoder) -> list[Text | None]:
    """Encode the captions of every row; None for bad ones."""
    numbers = [number for number, row in enumerate(rows) for _ in row.captions]
    captions = [caption for row in rows for caption in row.captions]
    starts = range(0, len(captions), CAPTIONS_AT_ONCE)
    parts = [text_encoder.encode(tokenized(text_encoder, captions[start : start + CAPTIONS_AT_ONCE])) for start in starts]
    if not parts:
        return [None] * len(rows)
    text = reduce(Text.concat, (part.map(Tensor.cpu) for part in parts))
    owner = torch.tensor(numbers)
    return [text.take(owner == number) if row.captions else None for number, row in enumerate(rows)]


def _batched(
    read: Iterator[tuple[Row, dict[str, Tensor] | None]],
) -> Iterator[list[tuple[Row, dict[str, Tensor] | None]]]:
    """Batch consecutive rows of one size, good or bad, of at most ENCODING_PIXELS, at least one row each."""
    for (size, _), group in groupby(read, key=lambda one: (one[0].size, one[1] is None)):
        at_most = max(1, ENCODING_PIXELS // max(1, size[0] * size[1]))
        waiting: list[tuple[Row, dict[str, Tensor] | None]] = []
        for one in group:
            waiting.append(one)
            if len(waiting) == at_most:
                yield waiting
                waiting = []
        if waiting:
            yield waiting
