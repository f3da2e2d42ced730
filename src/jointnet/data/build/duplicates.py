"""Rows whose id came earlier in the input: found before the work, with disk in the place of memory, and kept in the output folder.

So a row is a duplicate whatever the order in which units are built, and where: of rows with one id the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from io import BufferedRandom
from pathlib import Path
from tempfile import TemporaryFile
from typing import cast

import numpy as np

from jointnet.data.build.rows import Unit
from jointnet.errors import OutputError
from jointnet.files.atomic import replacing_file
from jointnet.files.write_errors import naming_write_errors, reason

DUPLICATES_FILE = "duplicates.npy"
_FILE_ROWS, _MAX_FILES = 1_000_000, 256
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])


def write_duplicates(ids: Iterable[Sequence[str]], num_rows: int, folder: Path) -> None:
    """Write the numbers of the rows whose id an earlier row has, unless the file is there.

    Args:
        ids: of all rows, in batches.
    Raises: OutputError; what ``ids`` raises.
    """
    path = folder / DUPLICATES_FILE
    with naming_write_errors(path):
        if not path.exists():
            found = duplicate_rows(ids, num_rows, folder)
            with replacing_file(path) as temporary:
                np.save(temporary, found)


def duplicates_of(unit: Unit, folder: Path) -> frozenset[int]:
    """Return the numbers of a unit's rows that are duplicates. Raises: OutputError."""
    path = folder / DUPLICATES_FILE
    try:
        rows = np.load(path, mmap_mode="r")
        first, last = np.searchsorted(rows, [unit.first, unit.first + unit.stop - unit.start])
        return frozenset(rows[first:last].tolist())
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot read {str(path)!r}: {reason(error)}; remove it, and start the command again") from error


def duplicate_rows(ids: Iterable[Sequence[str]], num_rows: int, folder: Path) -> np.ndarray:
    """Return, in order, the numbers (K,) of the rows whose id an earlier row has.

    Ids are compared by 128 bits of their hash, which are spread over unnamed files in ``folder`` (24 bytes a row) and sorted file by
    file, so that memory holds a 256th of them.
    Raises: OSError; what ``ids`` raises.
    """
    with ExitStack() as stack:
        num_files = min(num_rows // _FILE_ROWS + 1, _MAX_FILES)
        files = [cast(BufferedRandom, stack.enter_context(TemporaryFile(dir=folder))) for _ in range(num_files)]
        row = 0
        for batch in ids:
            hashes = np.frombuffer(b"".join(map(_hash, batch)), "<u8").reshape(-1, 2)
            records = np.empty(len(batch), _RECORD)
            records["high"], records["low"], records["row"] = hashes[:, 0], hashes[:, 1], np.arange(row, row + len(batch))
            place = hashes[:, 0] % num_files
            for number, file in enumerate(files):
                file.write(records[place == number].tobytes())
            row += len(batch)
        return np.sort(np.concatenate([_duplicates_in(file) for file in files]))


def _hash(id_: str) -> bytes:
    return blake2b(id_.encode(errors="surrogateescape"), digest_size=16).digest()


def _duplicates_in(file: BufferedRandom) -> np.ndarray:
    file.seek(0)
    records = np.frombuffer(file.read(), _RECORD)
    records = records[np.lexsort((records["row"], records["low"], records["high"]))]
    is_equal = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
    return records["row"][1:][is_equal]
