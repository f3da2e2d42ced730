"""Encoded maps on disk: a modality's latents of a whole data set as one float16 tensor, written once, read by every stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.files.atomic import replacing_file

_LATENTS, _SOURCE = "latents", "source"


@torch.no_grad()
def encode_to_file(codec: Codec, modality: str, batches: Iterable[Tensor], path: Path, maps_fingerprint: str) -> Path:
    """Encode batches of maps (B, c, H, W) with the posterior's mean into one file (N, C, h, w); it appears whole or not at all.

    A file that is there already is kept if it holds the same maps, encoded by the same codec, and replaced if not.
    """
    source = f"{maps_fingerprint} by {codec.fingerprint()}"
    if path.exists() and _source_of(path) == source:
        return path
    latents = torch.cat([codec.encode(modality, maps).half().cpu() for maps in batches]).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        save_file({_LATENTS: latents}, temporary, metadata={_SOURCE: source})
    return path


def _source_of(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(_SOURCE, "")


def load_latents(paths: Iterable[Path]) -> Tensor:
    """Return the latents of files, one a modality, as one float32 tensor (N, M, C, h, w)."""
    return torch.stack([load_file(path)[_LATENTS].float() for path in paths], 1)
