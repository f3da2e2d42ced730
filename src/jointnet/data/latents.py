"""Encoded maps on disk: a modality's latents of a whole data set as one float16 tensor, written once, read by every stage."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.errors import DamagedFileWarning
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors, reason

_LATENTS, _SOURCE = "latents", "source"


@torch.no_grad()
def encode_to_file(codec: Codec, modality: str, batches: Iterable[Tensor], path: Path, maps_fingerprint: str) -> Path:
    """Encode batches of maps (B, c, H, W) with the posterior's mean into one file (N, C, h, w); it appears whole or not at all.

    A file that is there already is kept if it holds the same maps, encoded by the same codec, and replaced if not.
    Raises: OutputError if it cannot be written.
    """
    source = f"{maps_fingerprint} by {codec.fingerprint()}"
    if os.path.lexists(path) and _source_of(path) == source:
        return path
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    latents = torch.cat([codec.encode(modality, maps).half().cpu() for maps in batches]).contiguous()
    with naming_write_errors(path), replacing_file(path) as temporary:
        save_file({_LATENTS: latents}, temporary, metadata={_SOURCE: source})
    return path


def _source_of(path: Path) -> str:
    """Return what a file was encoded from; of a damaged one nothing, so that it is encoded again."""
    try:
        with safe_open(path, "pt") as file:
            file.get_slice(_LATENTS)
            return (file.metadata() or {}).get(_SOURCE, "")
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{str(path)!r} is damaged ({reason(error)}); its maps are encoded again", DamagedFileWarning, stacklevel=3)
        return ""


def load_latents(paths: Sequence[Path]) -> Tensor:
    """Return the latents of files, one a modality, as one float32 tensor (N, M, C, h, w)."""
    first, *others = paths
    stored = load_file(first)[_LATENTS]  # (N, C, h, w)
    latents = stored.new_empty(len(stored), len(paths), *stored.shape[1:], dtype=torch.float32)
    latents[:, 0] = stored
    for place, path in enumerate(others, 1):  # one modality at a time: all of them twice may not fit
        latents[:, place] = load_file(path)[_LATENTS]
    return latents
