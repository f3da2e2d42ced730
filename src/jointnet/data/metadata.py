"""Captions in ``metadata.jsonl`` or ``metadata.csv``, as the Hub's ImageFolder has them.

Each row names a file (``file_name``, relative to the metadata file) and has its caption as ``text``, ``captions`` or ``caption``;
in JSON lines also a list of captions.
Source: huggingface.co/docs/datasets/image_dataset (ImageFolder).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jointnet.errors import DataFolderError
from jointnet.files.write_errors import reason

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
_FILE_NAME, _TEXTS = "file_name", ("text", "captions", "caption")
"""Columns; of several with captions the first one that has a value is read."""

_JSON_EXAMPLE = '{"file_name": "0.png", "text": "a red ball"}'


def read_metadata(path: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the file name of each row and its captions, [""] for an empty text and none for null. No line is kept.

    Args:
        name: of the metadata file in messages.
    Raises: DataFolderError, which names file and line.
    """
    try:
        with path.open("rb") as file:
            rows = _csv_rows(_lines(file, name), name) if path.suffix.lower() == ".csv" else _json_rows(_lines(file, name), name)
            for number, row in rows:
                yield _file_name(row, name, number), _captions(row, name, number)
    except OSError as error:
        raise DataFolderError(f"cannot read metadata {str(path)!r}: {reason(error)}; check it and its permissions") from error


def _lines(file: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode line by line, so that an error names its line. Raises: DataFolderError."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataFolderError(f"got line {number} of {name} that is not UTF-8 ({error}); save the file as UTF-8") from error


def _json_rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers with rows. Raises: DataFolderError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataFolderError(f"got line {number} of {name} that is no JSON ({error}); expected {_JSON_EXAMPLE} in each") from error
        if not isinstance(row, dict):
            raise DataFolderError(f"got line {number} of {name} that is no JSON object; expected {_JSON_EXAMPLE} in each")
        yield number, row


def _csv_rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbers of the rows' last lines with rows. Raises: DataFolderError."""
    reader = csv.reader(lines, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        if _FILE_NAME not in header or not set(_TEXTS) & set(header):
            raise DataFolderError(
                f"got columns {', '.join(header) or 'none'} in line 1 of {name}; expected {_FILE_NAME} and text, separated by commas"
            )
        for row in reader:
            if row and len(row) != len(header):
                raise DataFolderError(
                    f"got {len(row)} values in line {reader.line_num} of {name}; expected {len(header)}, as many as columns: "
                    "quote texts with commas"
                )
            if row:
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataFolderError(f"got line {reader.line_num} of {name} that is no CSV ({error}); check its quotes and commas") from error


def _file_name(row: dict[str, Any], name: str, number: int) -> str:
    """Raises: DataFolderError."""
    value = row.get(_FILE_NAME)
    if not isinstance(value, str) or not value or not _is_text(value):
        raise DataFolderError(f"got {_FILE_NAME} {value!r} in line {number} of {name}; expected a path such as 0.png in each")
    return value


def _captions(row: dict[str, Any], name: str, number: int) -> list[str]:
    """Raises: DataFolderError."""
    value = next((row[column] for column in _TEXTS if row.get(column) is not None), [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and _is_text(text) for text in texts):
        raise DataFolderError(f"got captions {value!r:.60} in line {number} of {name}; expected a text, or a list of texts")
    return [text.strip() for text in texts]


def _is_text(value: str) -> bool:
    """Return False where JSON's escapes leave half a character, which no file name and no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
