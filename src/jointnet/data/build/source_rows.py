"""Samples of a source, such as a folder or shards, as rows of a build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jointnet.data.build.checks import png_of
from jointnet.data.build.download import Downloader
from jointnet.data.build.rows import Loaded, Unit, units_of
from jointnet.data.folder import FolderSource
from jointnet.data.sample import Sample, Source
from jointnet.data.shard_samples import PICTURE_KINDS, picture_kind
from jointnet.data.shards import ShardSource
from jointnet.errors import DataFolderError
from jointnet.files.fingerprints import of_texts


@dataclass
class SampleRow:
    """A sample of a source; it is read once."""

    source: Source
    row: int
    modalities: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    _sample: Sample | None = None

    @property
    def id(self) -> str:
        """The source's id."""
        return self.source.id_of(self.row)

    def captions(self) -> Sequence[str]:
        """Raises: BadSampleError, DataFolderError."""
        return self._read().captions

    def load(self, downloader: Downloader) -> Loaded:  # noqa: ARG002 - nothing is downloaded
        """Raises: BadSampleError, DataFolderError."""
        sample = self._read()
        content = _stored_picture(self.source, self.row)
        if content is None or picture_kind(content) is None:
            content = png_of(sample.maps["rgb"])
        return Loaded(content, {name: sample.maps[name] for name in self.modalities}, sample.original_size)

    def _read(self) -> Sample:
        if self._sample is None:
            self._sample = self.source.read(self.row, ("rgb", *self.modalities))
        return self._sample


@dataclass(frozen=True)
class SourceRows:
    """Rows of a Source; ``modalities`` are the maps that are taken over."""

    source: Source
    modalities: tuple[str, ...] = ()
    is_remote: bool = False

    @property
    def depth_near_m(self) -> float | None:
        """The source's, where its depth is taken over."""
        return self.source.depth_near_m if "depth" in self.modalities else None

    def units(self, num_rows: int) -> Sequence[Unit]:
        """Raises: DataFolderError."""
        if not len(self.source):
            raise DataFolderError("got a source without a sample; expected pictures with captions")
        return units_of([len(self.source)], num_rows)

    def ids(self) -> Iterator[Sequence[str]]:
        """None: a source's ids are unique."""
        yield from ()

    def read(self, unit: Unit) -> Iterator[SampleRow]:
        """Raises: DataFolderError."""
        for row in range(unit.start, unit.stop):
            yield SampleRow(self.source, row, self.modalities)

    def identity(self) -> Any:
        """Return the number of samples and a hash of their ids; files are not read."""
        return [len(self.source), of_texts(map(self.source.id_of, range(len(self.source))))]


def _stored_picture(source: Source, row: int) -> bytes | None:
    """Return the bytes of a picture as a folder or a shard stores them; None for other sources. Raises: BadSampleError, DataFolderError."""
    if isinstance(source, ShardSource):
        files = source.files(row)
        return next((files[kind]().content for kind in PICTURE_KINDS if kind in files), None)
    if isinstance(source, FolderSource):
        try:
            return (source.folder / source.id_of(row)).read_bytes()
        except OSError:
            return None
    return None
