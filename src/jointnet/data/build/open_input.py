"""The input of a build by its path: lists of links in parquet files, shards, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jointnet.data.build.filters import Filters
from jointnet.data.build.parquet_rows import PARQUET, ParquetRows
from jointnet.data.build.rows import Rows
from jointnet.data.build.source_rows import SourceRows
from jointnet.data.folder import FolderSource
from jointnet.data.remote_files import scheme_of
from jointnet.data.shard_names import SHARD_SUFFIX, holds_shards
from jointnet.data.shards import ShardSource
from jointnet.errors import DataFolderError
from jointnet.modalities.modality import get_modality


@dataclass(frozen=True, kw_only=True)
class InputSettings:
    """How an input is read.

    Attributes:
        maps: modalities whose maps a folder or shards have, and that are taken over.
        cache: folder for downloaded shards and for indexes.
    """

    cache: Path
    maps: Sequence[str] = ()
    depth_unit: str = "disparity"


def holds_links(path: str) -> bool:
    """Return True for parquet files. Raises: DataFolderError for an unknown scheme."""
    if path.rstrip("/").endswith(PARQUET):
        return True
    return scheme_of(path) is None and any(Path(path).glob(f"*{PARQUET}"))


def open_input(path: str, filters: Filters, settings: InputSettings) -> Rows:
    """Open an input: what ends with .parquet, or a folder of such; what ends with .tar, or a folder of such; or a folder of pictures.

    Raises: DataFolderError if it is none of these, or cannot have what is asked of it; UnknownNameError for a modality.
    """
    maps = tuple(get_modality(name).name for name in settings.maps if name != "rgb")
    if holds_links(path):
        if maps:
            raise DataFolderError(f"got maps {', '.join(maps)} of {path!r}, which is a list of links; label its pictures instead")
        return ParquetRows(path, filters.columns())
    if filters.max_watermark is not None or filters.min_aesthetic is not None:
        raise DataFolderError(f"got a limit of a score for {path!r}; only lists of links in {PARQUET} files have scores: leave it out")
    if holds_shards(path):
        return SourceRows(ShardSource(path, settings.cache, depth_unit=settings.depth_unit), maps)
    if not Path(path).is_dir():
        raise DataFolderError(f"got {path!r}, which is no folder, and no {PARQUET} or {SHARD_SUFFIX} file; check the path")
    return SourceRows(FolderSource(Path(path), depth_unit=settings.depth_unit), maps)
