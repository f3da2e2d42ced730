"""The input of a training step: encoded maps and encoded captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.data.latents import all_or_none, check_latents, encode_to_file, load_latents
from jointnet.types import Text

ENCODING_PIXELS = 32 * 128 * 128
"""Of the maps that an autoencoder is shown at once: memory grows with them."""


class MapSource(Protocol):
    """A data set before encoding."""

    def __len__(self) -> int: ...

    def captions(self) -> Sequence[Sequence[str]]:
        """One or more lists of N captions; a step draws one of them for each sample."""
        ...

    def maps(self, modality: str) -> Iterator[Tensor]:
        """All maps of a modality, one (c, H, W) at a time, in the range its codec takes."""
        ...

    def fingerprints(self, modalities: Sequence[str]) -> Mapping[str, str]:
        """By modality, a text that changes when the maps do. Raises: DataFolderError, which names all files that cannot be used."""
        ...

    def size_ids(self) -> Tensor:
        """Sizes and crops of all samples for a base that reads them (SDXL), (N, 6), see ``types.size_ids``."""
        ...


class TextEncoder(Protocol):
    """A frozen text encoder, as training reads it."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> integers (B, K, L)."""
        ...

    def encode(self, tokens: Tensor) -> Text:
        """Tokens (B, K, L) -> text."""
        ...


@dataclass(frozen=True)
class LatentSamples:
    """Latents (N, M, C, h, w), tokens (draws, N, K, L) with the text encoder that reads them, sizes (N, 6), and the text of no prompt."""

    latents: Tensor
    tokens: Tensor
    size_ids: Tensor
    unconditional: Text
    text_encoder: TextEncoder

    def __len__(self) -> int:
        return len(self.latents)

    @cached_property
    def _no_tokens(self) -> Tensor:
        """Of an empty caption (1, K, L)."""
        return self.text_encoder.tokenize([""])

    @torch.no_grad()
    def batch(self, indices: Tensor, text_drop: float, generator: torch.Generator) -> tuple[Tensor, Text]:
        """Latents (B, M, C, h, w) and text; a share ``text_drop`` of the samples gets no prompt, the same for all branches, and so do
        those whose caption is empty."""
        draws = torch.randint(len(self.tokens), (len(indices),), generator=generator)
        tokens = self.tokens[draws, indices]
        is_empty = (tokens == self._no_tokens).flatten(1).all(1)
        dropped = torch.rand(len(indices), generator=generator) < text_drop
        text = self.text_encoder.encode(tokens).where(dropped | is_empty, self.unconditional)
        return self.latents[indices], replace(text, added={**text.added, "time_ids": self.size_ids[indices]})


def batched(maps: Iterable[Tensor], pixels: int = ENCODING_PIXELS) -> Iterator[Tensor]:
    """Stack single maps (c, H, W) of one size into batches of at most so many pixels, at least one map each."""
    waiting: list[Tensor] = []
    for map_ in maps:
        waiting.append(map_)
        if (len(waiting) + 1) * map_.shape[-2] * map_.shape[-1] > pixels:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def encode_source(
    source: MapSource, modalities: Sequence[str], codec: Codec, folder: Path, text_encoder: TextEncoder, unconditional: Text
) -> LatentSamples:
    """Encode a data set once into ``folder`` (one file a modality, reused by later stages) and open it for training.

    All files are checked before anything is encoded. After an error no file is left that was not there before.
    Raises: OutputError, DataFolderError.
    """
    check_latents(folder)
    tokens = torch.stack([text_encoder.tokenize(draw) for draw in source.captions()])
    found = source.fingerprints(modalities)
    with all_or_none([_file_of(name, folder) for name in modalities]):
        paths = [encode_modality(source, name, codec, folder, found[name]) for name in modalities]
    return LatentSamples(load_latents(paths), tokens, source.size_ids(), unconditional, text_encoder)


def encode_modality(source: MapSource, modality: str, codec: Codec, folder: Path, fingerprint: str) -> Path:
    """Encode one modality's maps into its file below ``folder``."""
    return encode_to_file(codec, modality, batched(source.maps(modality)), _file_of(modality, folder), fingerprint)


def _file_of(modality: str, folder: Path) -> Path:
    return folder / f"{modality}.safetensors"
