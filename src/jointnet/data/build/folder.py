"""The folder that a build writes: finished shards, a report of each unit, and what a stopped build goes on from.

::

    build.json                 what the shards depend on; another build is refused
    duplicates.npy             rows whose id came earlier in the input
    manifest.json              written last
    000012.tar                 the shard of unit 12, with its index beside it
    units/000012.json          its report: with it the unit is done
    units/000012.fetched.tar   pictures without labels yet, with index and report
    units/.*                   what a process writes just now

A unit's files are renamed into place shard first and report last, by one process at a time, and only if there is no report yet.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnet.data.build.rows import Unit
from jointnet.data.manifest import COMMAND, ShardFacts
from jointnet.data.shard_index import INDEX_SUFFIX
from jointnet.data.shard_writer import ShardWriter
from jointnet.errors import OutputError
from jointnet.files.atomic import write_json
from jointnet.files.json_files import read_named_values
from jointnet.files.lock import LOCK_FILE, waiting_for
from jointnet.files.result_set import PROGRAM, check_folder
from jointnet.files.write_errors import naming_write_errors, reason

BUILD_FILE = "build.json"
_UNITS, _COMMIT_LOCK = "units", ".commit.lock"


@dataclass(frozen=True)
class Report:
    """What became of a unit's rows: each is a sample, or counted in ``dropped`` under its reason.

    Attributes:
        shard: None if there is no sample.
    """

    unit: int
    rows: int
    dropped: Mapping[str, int]
    shard: ShardFacts | None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return 0 if self.shard is None else self.shard.samples


@dataclass(frozen=True)
class BuildFolder:
    """An output folder."""

    path: Path

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check, before the work, that the folder may be written; nothing is. Raises: OutputError if it holds anything but this build."""
        check_folder(self.path)
        if not self.path.is_dir():
            return
        facts = self._facts()
        if not facts and any(entry.name != LOCK_FILE for entry in self.path.iterdir()):
            raise OutputError(f"got output folder {str(self.path)!r}, which holds something else; choose a new folder with -o")
        earlier = facts.get("settings", settings)
        changed = [name for name in settings if earlier.get(name) != settings[name]] if isinstance(earlier, dict) else list(settings)
        if changed:
            name = changed[0]
            before = earlier.get(name) if isinstance(earlier, dict) else None
            raise OutputError(
                f"got output folder {str(self.path)!r} of a build with {name} {_short(before)}, not {_short(settings[name])}; repeat its "
                "command to go on with it, or choose a new folder with -o"
            )

    def start(self, settings: Mapping[str, Any]) -> None:
        """Make the folder this build's, and remove what a stopped one was writing. The caller holds its lock. Raises: OutputError."""
        with naming_write_errors(self.path):
            self._units.mkdir(parents=True, exist_ok=True)
            if not self._facts():
                write_json(self.path / BUILD_FILE, {"program": PROGRAM, "command": COMMAND, "settings": settings})
        self.remove_unfinished()

    def remove_unfinished(self) -> None:
        """Remove what processes that are gone were writing. Raises: OutputError."""
        with naming_write_errors(self.path):
            for place in (self.path, self._units):
                for path in place.glob(".*"):
                    if path.name not in (LOCK_FILE, _COMMIT_LOCK):
                        path.unlink(missing_ok=True)

    def report(self, unit: Unit, *, is_fetched_only: bool = False) -> Report | None:
        """Return the report of a unit that is done, or fetched; None if it is not.

        Raises: OutputError if a file of it is gone or damaged.
        """
        path = self._report_path(unit, is_fetched_only=is_fetched_only)
        try:
            values = json.loads(path.read_bytes())
            shard = values.pop("shard")
            report = Report(**values, shard=None if shard is None else ShardFacts(**shard))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise OutputError(f"cannot read {str(path)!r}: {reason(error)}; remove it, and the unit is built again") from error
        if report.shard is not None:
            place = self._units if is_fetched_only else self.path
            self._check_shard(place / report.shard.name, report.shard, path)
        return report

    @contextmanager
    def writing(self) -> Iterator[ShardWriter]:
        """Yield a writer of a shard that nobody sees; after an error it is removed again."""
        path = self._units / f".{secrets.token_hex(8)}.tar"
        writer = ShardWriter(path)
        try:
            with writer:
                yield writer
        except BaseException:
            self.discard(writer)
            raise

    def discard(self, writer: ShardWriter) -> None:
        """Remove what was written."""
        for path in (writer.path, writer.index_path):
            path.unlink(missing_ok=True)

    def commit(self, unit: Unit, writer: ShardWriter, rows: int, dropped: Mapping[str, int], *, is_fetched_only: bool = False) -> Report:
        """Put a unit's shard and report in place, or discard them if another process was faster; return the report that is there.

        Raises: OutputError.
        """
        place = self._units if is_fetched_only else self.path
        name = f"{unit.name}{'.fetched' if is_fetched_only else ''}.tar"
        with naming_write_errors(place / name), self._committing():
            earlier = self.report(unit, is_fetched_only=is_fetched_only)
            if earlier is not None:
                self.discard(writer)
                return earlier
            facts = None
            if writer.num_samples:
                facts = writer.facts(name)
                _store(writer.path, place / name)
                _store(writer.index_path, place / f"{name}{INDEX_SUFFIX}")
            self.discard(writer)
            report = Report(unit.number, rows, dict(dropped), facts)
            write_json(self._report_path(unit, is_fetched_only=is_fetched_only), asdict(report))
            return report

    def fetched_shard(self, unit: Unit) -> Path:
        """Return the place of a unit's pictures without labels."""
        return self._units / f"{unit.name}.fetched.tar"

    def forget_fetched(self, unit: Unit) -> None:
        """Remove a unit's pictures without labels, the report first."""
        shard = self.fetched_shard(unit)
        for path in (self._report_path(unit, is_fetched_only=True), shard, shard.with_name(shard.name + INDEX_SUFFIX)):
            path.unlink(missing_ok=True)

    def done(self, units: Sequence[Unit]) -> list[Report | None]:
        """Return the reports of the units, None for those that are not done. Raises: OutputError."""
        there = {entry.name for entry in os.scandir(self._units)} if self._units.is_dir() else set()
        return [self.report(unit) if f"{unit.name}.json" in there else None for unit in units]

    @property
    def _units(self) -> Path:
        return self.path / _UNITS

    def _report_path(self, unit: Unit, *, is_fetched_only: bool) -> Path:
        return self._units / f"{unit.name}{'.fetched' if is_fetched_only else ''}.json"

    def _facts(self) -> dict[str, Any]:
        """Return what BUILD_FILE says; empty if there is none of ours."""
        try:
            facts = read_named_values(self.path / BUILD_FILE)
        except (OSError, ValueError):
            return {}
        return facts if (facts.get("program"), facts.get("command")) == (PROGRAM, COMMAND) else {}

    def _check_shard(self, path: Path, facts: ShardFacts, report: Path) -> None:
        """Raises: OutputError."""
        with suppress(OSError):
            if path.stat().st_size == facts.bytes:
                return
        raise OutputError(f"got {str(path)!r} missing, or not of {facts.bytes} bytes; remove {str(report)!r}, and the unit is built again")

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """Wait until no other process of this machine commits; a worker may outlive a build that was killed."""
        with waiting_for(self._units / _COMMIT_LOCK):
            yield


def _store(source: Path, target: Path) -> None:
    """Bring a file to the disk under its final name."""
    handle = os.open(source, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(source, target)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
