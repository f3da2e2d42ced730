"""The stages of a build on Ray Data: workers fetch, and label too where there is no GPU; where there are GPUs, one worker each labels.

A unit is one row of the data set: its pictures go through files, not through Ray's memory. When a worker dies, Ray starts another one
and gives it the worker's units again; those that were done are left as they are.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import ray  # type: ignore[import-not-found] - an extra
from ray.data import ActorPoolStrategy, DataContext  # type: ignore[import-not-found] - an extra

import jointnet.errors as errors
from jointnet.data.build.download import Downloader
from jointnet.data.build.folder import BuildFolder, Report
from jointnet.data.build.rows import Unit
from jointnet.data.build.stages import BuildJob, fetch_unit, label_unit, make_labelers
from jointnet.data.labelers.labeler import Labeler
from jointnet.errors import JointNetError, OutputError

_MAX_BLOCKS = 10_000
_STDERR = 2
_MAX_DEATHS = 5
"""Of workers at one unit."""


class Worker:
    """Does stages for one unit after another, with one downloader and its labelers."""

    def __init__(self, job: BuildJob, *, num_workers: int, fetches: bool, labels: bool) -> None:
        self._job, self._fetches, self._labels = job, fetches, labels and bool(job.labels)
        self._downloader = Downloader(job.download, share=1 / num_workers)
        self._labelers: dict[str, Labeler] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A unit -> the same, and what is wrong: what is raised here loses its kind on its way through Ray Data."""
        unit = Unit(**{each.name: int(row[each.name]) for each in fields(Unit)})
        try:
            if row["error"] == "" and self._fetches:
                fetch_unit(self._job, unit, self._downloader)
            if row["error"] == "" and self._labels:
                self._labelers = make_labelers(self._job) if self._labelers is None else self._labelers
                label_unit(self._job, unit, self._labelers)
        except JointNetError as error:
            return {**row, "kind": type(error).__name__, "error": str(error)}
        return row


def run_on_ray(job: BuildJob, units: Sequence[Unit], workers: int) -> Iterator[Report]:
    """Run the stages; yield each unit's report when it is done.

    On a cluster that is running (RAY_ADDRESS) or that the caller has started, else on one of this machine, which is stopped afterwards.
    Raises: what the stages raise; OutputError if there is no cluster, or workers die at a unit again and again.
    """
    if not units:
        return
    is_ours = not ray.is_initialized()
    if is_ours:
        _start(workers)
    try:
        _be_quiet()
        folder, by_number = BuildFolder(job.output), {unit.number: unit for unit in units}
        for row in _dataset(job, units, workers).iter_rows():
            if row["error"]:
                raise getattr(errors, row["kind"], JointNetError)(row["error"])
            report = folder.report(by_number[int(row["number"])])
            assert report is not None, "it is written before the row is passed on"
            yield report
    except ray.exceptions.RayError as error:
        raise _in_one_line(error) from error
    finally:
        if is_ours:
            ray.shutdown()


def _dataset(job: BuildJob, units: Sequence[Unit], workers: int) -> ray.data.Dataset:
    num_gpus = int(ray.cluster_resources().get("GPU", 0)) if job.labels and job.device in (None, "cuda") else 0
    rows = ray.data.from_items(
        [{**asdict(unit), "kind": "", "error": ""} for unit in units], override_num_blocks=min(len(units), _MAX_BLOCKS)
    )
    retries: dict[str, Any] = {"max_restarts": -1, "max_task_retries": _MAX_DEATHS}
    done = rows.map(
        Worker,  # type: ignore[arg-type] - Ray makes one in each process
        fn_constructor_args=(job,),
        fn_constructor_kwargs={"num_workers": workers, "fetches": True, "labels": num_gpus == 0},
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        **retries,
    )
    if num_gpus:
        done = done.map(
            Worker,  # type: ignore[arg-type] - as above
            fn_constructor_args=(job,),
            fn_constructor_kwargs={"num_workers": workers, "fetches": False, "labels": True},
            compute=ActorPoolStrategy(size=num_gpus),
            num_cpus=0,
            num_gpus=1,
            **retries,
        )
    return done


def _start(workers: int) -> None:
    """Raises: OutputError."""
    options: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++ parts, which heed no logging level and write to our stderr
    try:
        with _silencing_stderr():  # on which they say that they read this
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise _in_one_line(error) from error


@contextmanager
def _silencing_stderr() -> Iterator[None]:
    """Throw away what is written on this process's stderr, by libraries too."""
    sys.stderr.flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def _be_quiet() -> None:
    """Leave progress to the caller."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _in_one_line(error: Exception) -> OutputError:
    return OutputError(f"Ray failed: {str(error).strip().splitlines()[-1]}; start the command again to go on")
