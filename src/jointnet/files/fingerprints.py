"""Short names of contents, by which a file computed from one thing is not taken for one computed from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_DIGITS = 16

_OF_THE_LIBRARY = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""What a config of transformers says of its file, and not of the network."""


def of_weights(network: nn.Module) -> str:
    """Return eight hex digits that change with any weight."""
    import torch

    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def of_networks(components: Mapping[str, object]) -> str:
    """Return 16 hex digits that change with any weight of the networks among a pipeline's components."""
    from torch import nn

    networks = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    return of_texts(f"{name} {of_weights(networks[name])}" for name in sorted(networks))


def of_config(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the settings of a library's config as texts, in order, without those that say where it came from."""
    return tuple(f"{name} {config[name]!r}" for name in sorted(config) if not name.startswith("_") and name not in _OF_THE_LIBRARY)


def of_content(path: Path) -> str:
    """Return 16 hex digits that change with the bytes of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def of_stats(paths: Iterable[Path]) -> str:
    """Return 16 hex digits that change when one of the files is written, replaced or renamed, also where its date is set back.

    The files are not read. Raises: OSError.
    """
    facts = ((path, path.stat()) for path in paths)
    return of_texts(f"{path} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_dev} {s.st_ino}" for path, s in facts)


def of_texts(texts: Iterable[str]) -> str:
    """Return 16 hex digits that change with the texts and their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:_DIGITS]
