"""What a training step reads: encoded maps and encoded captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from jointnet.data.latents import encode_to_file, load_latents
from jointnet.modalities.codec import LatentCodec
from jointnet.types import Text

ENCODING_BATCH = 32


class MapSource(Protocol):
    """A data set before encoding."""

    def __len__(self) -> int: ...

    def captions(self) -> Sequence[Sequence[str]]:
        """One or more lists of N captions; a step draws one of them for each sample."""
        ...

    def maps(self, modality: str) -> Iterator[Tensor]:
        """All maps of a modality, one (c, H, W) at a time, in the range its codec takes."""
        ...


@dataclass(frozen=True)
class LatentSamples:
    """Latents (N, M, C, h, w) and token ids (draws, N, L), with the frozen text encoder that turns ids into embeddings."""

    latents: Tensor
    tokens: Tensor
    empty: Tensor
    encode_tokens: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.latents)

    @torch.no_grad()
    def batch(self, indices: Tensor, text_drop: float, generator: torch.Generator) -> tuple[Tensor, Text]:
        """Latents (B, M, C, h, w) and text; a share ``text_drop`` of the samples gets the empty prompt, the same for all branches."""
        draws = torch.randint(len(self.tokens), (len(indices),), generator=generator)
        ids = self.tokens[draws, indices]
        dropped = torch.rand(len(indices), generator=generator) < text_drop
        ids = torch.where(dropped[:, None], self.empty, ids)
        return self.latents[indices], Text(self.encode_tokens(ids))


def batched(maps: Iterable[Tensor], size: int = ENCODING_BATCH) -> Iterator[Tensor]:
    """Stack single maps into batches of at most ``size``."""
    waiting: list[Tensor] = []
    for map_ in maps:
        waiting.append(map_)
        if len(waiting) == size:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def encode_source(
    source: MapSource,
    modalities: Sequence[str],
    codec: LatentCodec,
    folder: Path,
    tokenize: Callable[[Sequence[str]], Tensor],
    encode_tokens: Callable[[Tensor], Tensor],
) -> LatentSamples:
    """Encode a data set once into ``folder`` (one file a modality, reused by later stages) and open it for training."""
    paths = [encode_to_file(codec, name, batched(source.maps(name)), folder / f"{name}.npy") for name in modalities]
    tokens = torch.stack([tokenize(draw) for draw in source.captions()])
    return LatentSamples(load_latents(paths), tokens, tokenize([""])[0], encode_tokens)
