"""Lists of links in parquet files, as COYO-700M publishes them: id, url, text, and columns that filters read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointnet.data.build.download import Downloader
from jointnet.data.build.rows import Loaded, Unit, units_of
from jointnet.data.remote_files import matching, open_remote, scheme_of
from jointnet.data.shard_names import glob_escaped
from jointnet.errors import BadSampleError, DataFolderError, JointNetError, MissingPackageError
from jointnet.files.write_errors import reason

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

PARQUET = ".parquet"
_ID, _URLS, _TEXTS = "id", ("url",), ("text", "caption")
"""Names of columns, in any case; an id is made of file and row where there is none."""

_BATCH, _IDS_BATCH = 1000, 65_536


@dataclass(frozen=True)
class LinkRow:
    """A link with its caption."""

    id: str
    url: str | None
    text: str | None
    facts: Mapping[str, Any]

    def captions(self) -> Sequence[str]:
        """Raises: BadSampleError."""
        if self.text is None:
            raise BadSampleError(f"got no text for {self.id}", "no caption")
        return (self.text.strip(),)

    def load(self, downloader: Downloader) -> Loaded:
        """Raises: BadSampleError."""
        if not self.url:
            raise BadSampleError(f"got no url for {self.id}", "no url")
        return Loaded(downloader.get(self.url))


@dataclass(frozen=True)
class ParquetRows:
    """Rows of parquet files.

    Attributes:
        path: a file, a folder of them or a pattern; local, or a URL.
        columns: that filters read. Each must be there.
    """

    path: str
    columns: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    is_remote: bool = True
    depth_near_m: float | None = None

    def units(self, num_rows: int) -> Sequence[Unit]:
        """Raises: DataFolderError if there are no rows, columns are missing, or a file is damaged."""
        sizes = [self._num_rows(name) for name in self._files]
        if not sum(sizes):
            raise DataFolderError(f"got {self.path!r} without a row; expected links in the columns url and text")
        return units_of(sizes, num_rows)

    def ids(self) -> Iterator[list[str]]:
        """Raises: DataFolderError."""
        for name in self._files:
            with _opened(name) as file, _naming_damage(name):
                stored = self._columns(name, file).get(_ID)
                row = 0
                for batch in file.iter_batches(_IDS_BATCH, columns=[] if stored is None else [stored]):
                    values = [None] * batch.num_rows if stored is None else batch.column(0).to_pylist()
                    yield [_id_of(name, number, value) for number, value in enumerate(values, row)]
                    row += len(values)

    def read(self, unit: Unit) -> Iterator[LinkRow]:
        """Raises: DataFolderError."""
        name = self._files[unit.part]
        with _opened(name) as file, _naming_damage(name):
            columns = self._columns(name, file)
            groups, row = _groups_of(file, unit)
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=list(columns.values())):
                first, last = max(unit.start - row, 0), min(unit.stop - row, batch.num_rows)
                for offset, values in enumerate(batch.slice(first, max(last - first, 0)).to_pylist(), row + first):
                    yield self._row(name, offset, {known: values[stored] for known, stored in columns.items()})
                row += batch.num_rows
                if row >= unit.stop:
                    return

    def identity(self) -> Any:
        """Return names and numbers of rows."""
        return [[os.path.basename(name), self._num_rows(name)] for name in self._files]

    @cached_property
    def _files(self) -> list[str]:
        """Raises: DataFolderError."""
        scheme = scheme_of(self.path)
        path = self.path.rstrip("/")
        if scheme is None:
            names = [path]
            if Path(path).is_dir():
                names = sorted(glob(f"{glob_escaped(path)}/*{PARQUET}"))
            elif not Path(path).is_file() and has_magic(path):
                names = sorted(glob(path))
        else:
            is_pattern = "*" in path or not path.endswith(PARQUET)
            names = matching(path if "*" in path else f"{path}/*{PARQUET}") if is_pattern else [path]
        if not names:
            raise DataFolderError(f"got {self.path!r}, which stands for no {PARQUET} file; check the path")
        return names

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {}

    def _num_rows(self, name: str) -> int:
        """Raises: DataFolderError, also for missing columns."""
        if name not in self._sizes:
            with _opened(name) as file:
                self._columns(name, file)
                self._sizes[name] = file.metadata.num_rows
        return self._sizes[name]

    def _columns(self, name: str, file: ParquetFile) -> dict[str, str]:
        """Return the stored names of the columns that are read, by ours. Raises: DataFolderError."""
        stored = {column.lower(): column for column in file.schema_arrow.names}
        found = {"url": _first(stored, _URLS), "text": _first(stored, _TEXTS), **{column: stored.get(column) for column in self.columns}}
        missing = [column for column, name_ in found.items() if name_ is None]
        if missing:
            there = ", ".join(file.schema_arrow.names[:30])
            raise DataFolderError(f"got no column {', '.join(missing)} in {name!r}, which has {there}; rename it, or leave out its filter")
        return {known: name_ for known, name_ in {**found, _ID: stored.get(_ID)}.items() if name_ is not None}

    def _row(self, name: str, number: int, values: Mapping[str, Any]) -> LinkRow:
        text, url = values["text"], values["url"]
        return LinkRow(
            _id_of(name, number, values.get(_ID)),
            url if isinstance(url, str) else None,
            text if isinstance(text, str) else None,
            {column: values[column] for column in self.columns},
        )


def _id_of(name: str, number: int, value: Any) -> str:
    return f"{Path(name).stem}-{number}" if value is None else str(value)


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    """Raises: DataFolderError for a file whose content cannot be read."""
    try:
        yield
    except JointNetError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's are of these kinds
        raise DataFolderError(f"cannot read {name!r}: {reason(error)}; download it anew") from error


def _first(stored: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((stored[name] for name in names if name in stored), None)


def _groups_of(file: ParquetFile, unit: Unit) -> tuple[list[int], int]:
    """Return the row groups that hold a unit, and the number of rows before them."""
    groups: list[int] = []
    before = start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if stop <= unit.start:
            before = stop
        elif start < unit.stop:
            groups.append(group)
        start = stop
    return groups, before


def _opened(name: str) -> ParquetFile:
    """Raises: DataFolderError, MissingPackageError."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingPackageError("parquet files need pyarrow to be read; install the extra: pip install 'jointnet[data]'") from error
    try:
        return ParquetFile(name if scheme_of(name) is None else open_remote(name), pre_buffer=False)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataFolderError(f"cannot read {name!r} as parquet: {reason(error)}; check the path, or download it anew") from error
