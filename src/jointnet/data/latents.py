"""Encoded samples on disk, in chunks that are written once: latents of each modality, the rows' captions and sizes, and texts if asked.

Nothing of it is held in memory: rows are read where the system has mapped the files.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jointnet.errors import DamagedFileWarning, OutputError
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors, reason
from jointnet.types import Text

CHUNK = 500
"""Rows of a chunk: what is encoded again at most where a run is killed meanwhile."""

_ROWS, _ENDS, _SOURCE = "rows", ".ends", "source"
_TEXT, _EMBEDS = "text", "embeds"
_NUM_OPEN = 64


@dataclass(frozen=True)
class Row:
    """What is known of a sample besides its latents.

    Attributes:
        captions: none if it is bad.
        original: height and width of its picture.
        corner, extent, size: the part of it that is encoded, and its size then, see ``data.framing.Frame``.
        bad, message: the reason why it cannot be used, short and in full; None and empty if it can.
    """

    id: str
    captions: tuple[str, ...] = ()
    original: tuple[int, int] = (0, 0)
    corner: tuple[int, int] = (0, 0)
    extent: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    bad: str | None = None
    message: str = ""


class LatentStore:
    """Chunks of encoded rows in a folder, CHUNK.safetensors each.

    Args:
        source: what the rows are made from; a chunk of another source is encoded again.
    """

    def __init__(self, folder: Path, num_rows: int, modalities: Sequence[str], source: str) -> None:
        self.folder, self.num_rows, self.modalities, self.source = folder, num_rows, tuple(modalities), source
        self._opened = lru_cache(maxsize=_NUM_OPEN)(_open)

    def __reduce__(self) -> tuple[type[LatentStore], tuple[Any, ...]]:
        return LatentStore, (self.folder, self.num_rows, self.modalities, self.source)  # each process opens its own

    def __len__(self) -> int:
        return self.num_rows

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return -(-self.num_rows // CHUNK)

    def rows_of(self, chunk: int) -> range:
        """The rows of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.num_rows))

    def has(self, chunk: int) -> bool:
        """True if a chunk is there, made from this source; a damaged one is not. Raises: OutputError for a file that is none of ours."""
        path = self._path(chunk)
        if not os.path.lexists(path):
            return False
        try:
            return _source_of(path) == self.source
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{str(path)!r} is damaged ({reason(error)}); its maps are encoded again", DamagedFileWarning, stacklevel=2)
            return False

    def remove(self, chunk: int) -> None:
        """Delete a chunk, if it is there."""
        self._path(chunk).unlink(missing_ok=True)

    def write(
        self, chunk: int, rows: Sequence[Row], latents: Mapping[str, Sequence[Tensor]], texts: Sequence[Text | None] | None = None
    ) -> None:
        """Write a chunk: its rows, and by modality the latents (C, h, w) of every row, empty ones where it is bad.

        Args:
            texts: of the captions of every row, one row a caption; None where it is bad.
        Raises: OutputError.
        """
        parts = {name: [value.detach().to("cpu", torch.float16).reshape(-1) for value in latents[name]] for name in self.modalities}
        facts = [json.dumps(asdict(row), separators=(",", ":")).encode() for row in rows]
        parts[_ROWS] = [torch.frombuffer(bytearray(fact), dtype=torch.uint8) for fact in facts]
        metadata = {_SOURCE: self.source}
        if good := next((text for text in texts or () if text is not None), None):
            by_row = [{_EMBEDS: text.embeds, **text.added} if text else None for text in texts or ()]
            for name, example in {_EMBEDS: good.embeds, **good.added}.items():
                empty = example.new_empty(0, device="cpu")
                parts[f"{_TEXT}.{name}"] = [empty if row is None else row[name].detach().cpu().reshape(-1) for row in by_row]
            metadata[_TEXT] = json.dumps({name: list(value.shape[1:]) for name, value in {_EMBEDS: good.embeds, **good.added}.items()})
        tensors = {name: torch.cat(values) for name, values in parts.items()}
        tensors |= {name + _ENDS: torch.as_tensor(np.cumsum([len(value) for value in values])) for name, values in parts.items()}
        path = self._path(chunk)
        with naming_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary:
                save_file(tensors, temporary, metadata=metadata)

    def row(self, number: int) -> Row:
        """Read what is known of a row."""
        fields = json.loads(bytes(self._read(_ROWS, number).numpy()))
        lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return Row(**lists)

    def latents(self, number: int, channels: int, size: tuple[int, int]) -> Tensor:
        """Read the latents of a good row (M, C, h, w), float32."""
        return torch.stack([self._read(name, number).view(channels, *size) for name in self.modalities]).float()

    def text(self, number: int, caption: int) -> Text:
        """Read a caption's text, one row, as its encoder gave it."""
        shapes = json.loads(self._opened(self._path(number // CHUNK)).metadata[_TEXT])
        rows = {name: self._read(f"{_TEXT}.{name}", number).view(-1, *shape)[caption : caption + 1] for name, shape in shapes.items()}
        return Text(rows.pop(_EMBEDS), rows)

    def all_latents(self, channels: int, size: tuple[int, int]) -> Tensor:
        """Read the latents of all rows (N, M, C, h, w), float16, into memory: of a store whose rows are all good and of one size."""
        chunks = [self._opened(self._path(chunk)).parts for chunk in range(self.num_chunks)]
        return torch.cat([torch.stack([chunk[name][0][:].view(-1, channels, *size) for name in self.modalities], 1) for chunk in chunks])

    def _read(self, kind: str, number: int) -> Tensor:
        chunk, place = divmod(number, CHUNK)
        values, ends = self._opened(self._path(chunk)).parts[kind]
        return values[int(ends[place - 1]) if place else 0 : int(ends[place])]

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:05d}.safetensors"


class _Chunk(NamedTuple):
    """A chunk's rows, latents and texts, read where they are mapped, each with where its rows end."""

    parts: dict[str, tuple[Any, Tensor]]
    metadata: dict[str, str]


def _open(path: Path) -> _Chunk:
    with safe_open(path, "pt") as file:
        kinds = [name for name in file.keys() if not name.endswith(_ENDS)]  # noqa: SIM118 - not a dict
        return _Chunk({name: (file.get_slice(name), file.get_tensor(name + _ENDS)) for name in kinds}, file.metadata())


def check_latents(folder: Path, *, may_be_damaged: bool = True) -> None:
    """Check, before anything is written, that the latents in a folder are ours; one that cannot be read counts as damaged.

    Raises: OutputError.
    """
    with naming_write_errors(folder):
        if os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder")
    for path in sorted(folder.glob("[!.]*.safetensors")):  # one that begins with a dot was being written in a process that was killed
        try:
            _source_of(path)
        except (OSError, SafetensorError) as error:
            if not may_be_damaged or (path.exists() and not path.is_file()):
                raise OutputError(f"cannot read latents {str(path)!r}: {reason(error)}; choose another folder, or delete them") from error


def _source_of(path: Path) -> str:
    """Return what a chunk was made from. Raises: OutputError if it is not ours; OSError, SafetensorError if it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file")
    with safe_open(path, "pt") as file:
        source = (file.metadata() or {}).get(_SOURCE)
        if source is None or _ROWS not in file.keys():  # noqa: SIM118 - not a dict
            raise OutputError(f"got {str(path)!r}, latents which no run of ours wrote; choose another folder, or move them away")
        return source
