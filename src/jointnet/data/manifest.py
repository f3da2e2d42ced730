"""What a folder of shards that we built says about itself: its shards with their checksums, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jointnet.data.remote_files import exists, read_bytes, scheme_of
from jointnet.errors import DataFolderError
from jointnet.files.atomic import write_json
from jointnet.files.result_set import PROGRAM
from jointnet.files.write_errors import naming_write_errors, reason

MANIFEST_FILE = "manifest.json"
COMMAND = "data build"


@dataclass(frozen=True)
class ShardFacts:
    """A shard's file name, its number of samples, its size, and the SHA-256 of its bytes."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was built.

    Attributes:
        rows: of the input; each is a sample or counted under its reason in ``dropped``.
        modalities: maps that every sample has, "rgb" included.
        labelers: fingerprint of the labeler of each modality that was labelled.
        settings: all that the content of the shards depends on, filters included.
    """

    shards: tuple[ShardFacts, ...]
    rows: int
    samples: int
    dropped: Mapping[str, int]
    modalities: tuple[str, ...]
    labelers: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    depth_near_m: float | None = None

    def save(self, folder: Path) -> Path:
        """Write the manifest into its folder. Raises: OutputError."""
        path = folder / MANIFEST_FILE
        with naming_write_errors(path):
            write_json(path, {"program": PROGRAM, "command": COMMAND, **asdict(self)})
        return path


def read_manifest(folder: str) -> Manifest | None:
    """Return the manifest of a local or remote folder; None if it has none, or another program's.

    Raises: DataFolderError if it is ours and damaged, or the store cannot be reached.
    """
    path = f"{folder}/{MANIFEST_FILE}"
    content = _content(path)
    if content is None:
        return None
    try:
        facts = json.loads(content)
    except ValueError:
        return None
    if not isinstance(facts, dict) or (facts.get("program"), facts.get("command")) != (PROGRAM, COMMAND):
        return None
    try:
        known = {each.name: facts[each.name] for each in fields(Manifest)}
        shards = tuple(ShardFacts(**shard) for shard in known.pop("shards"))
        return Manifest(shards, **{**known, "modalities": tuple(known["modalities"])})
    except (KeyError, TypeError) as error:
        raise DataFolderError(f"got {path!r}, which is damaged ({error!r}); build the folder anew, or remove the file") from error


def _content(path: str) -> bytes | None:
    """Raises: DataFolderError."""
    if scheme_of(path) is not None:
        return read_bytes(path) if exists(path) else None
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataFolderError(f"cannot read {path!r}: {reason(error)}; check its permissions") from error
