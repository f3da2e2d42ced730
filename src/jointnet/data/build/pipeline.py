"""A build from its input to its manifest: on Ray Data, or in this process where Ray is not wanted or not installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import Any

from jointnet.data.build.download import Downloader
from jointnet.data.build.duplicates import write_duplicates
from jointnet.data.build.folder import BuildFolder, Report
from jointnet.data.build.rows import Unit
from jointnet.data.build.stages import BuildJob, fetch_unit, label_unit, make_labelers
from jointnet.data.labelers.labeler import naming_labeler
from jointnet.data.manifest import Manifest
from jointnet.errors import DataFolderError, MissingPackageError, UnknownNameError
from jointnet.files.lock import locked
from jointnet.files.write_errors import naming_write_errors

Progress = Callable[[int, int, Report], None]
"""Called with the number of units that are done, of all, and the last one's report."""


def build(job: BuildJob, *, workers: int | None = None, progress: Progress | None = None) -> Manifest:
    """Build the shards of a job and their manifest; a build that was stopped at any point goes on, and one that is done stays as it is.

    Args:
        workers: processes of Ray Data; 0: this process only; None: as many as there are cores if Ray is installed, else 0.
    Raises: DataFolderError if the input cannot be read or nothing of it can be used; OutputError if the folder holds something else, or
        another process builds there; MissingPackageError; LabelerError, and what labelers raise.
    """
    if workers is None:
        workers = _num_cores() if find_spec("ray") is not None else 0
    units = job.rows.units(job.rows_per_shard)
    folder = BuildFolder(job.output)
    settings = settings_of(job)
    folder.check(settings)
    fingerprints, depth_near_m = _about_labelers(job)
    settings = {**settings, "labelers": fingerprints}
    folder.check(settings)
    with naming_write_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder.path):
            folder.start(settings)
            waiting = [unit for unit, report in zip(units, folder.done(units), strict=True) if report is None]
            if waiting:
                write_duplicates(job.rows.ids(), sum(unit.stop - unit.start for unit in units), folder.path)
            run = _run_here if workers == 0 else partial(_run_on_ray, workers=workers)
            for number, report in enumerate(run(job, waiting), len(units) - len(waiting) + 1):
                if progress is not None:
                    progress(number, len(units), report)
            folder.remove_unfinished()  # of workers that died
            manifest = _manifest(job, [report for report in folder.done(units) if report is not None], settings, depth_near_m)
            if not manifest.samples:
                dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
                raise DataFolderError(f"got no sample out of {manifest.rows} rows: {dropped}; check the input and the filters")
            manifest.save(folder.path)
    return manifest


def settings_of(job: BuildJob) -> dict[str, Any]:
    """Return as JSON all that the shards depend on, but for labelers and links that fail."""
    return {
        "input": job.rows.identity(),
        "maps": list(job.rows.modalities),
        "rows_per_shard": job.rows_per_shard,
        "filters": asdict(job.pictures.filters),
        "max_pixels": job.pictures.max_pixels,
        "shorter_side": job.pictures.shorter_side,
        "labels": sorted(job.labels),
    }


def _about_labelers(job: BuildJob) -> tuple[dict[str, str], float | None]:
    """Return each labeler's fingerprint by modality, and the distance in metres at which all depth maps read 1, where it is known.

    Raises: UnknownNameError for maps that come with the input too; what makes the labelers raises.
    """
    doubled = [name for name in job.labels if name in job.rows.modalities]
    if doubled:
        raise UnknownNameError(f"got {doubled[0]} maps of the input and a labeler of {doubled[0]}; leave out one of them")
    fingerprints, near_m = dict[str, str](), job.rows.depth_near_m
    for modality, factory in job.labels.items():
        with naming_labeler(modality):
            labeler = factory()
            fingerprints[modality] = labeler.fingerprint()
        if modality == "depth":
            near_m = getattr(labeler, "depth_near_m", None)
    return fingerprints, near_m


def _run_here(job: BuildJob, units: Iterable[Unit]) -> Iterator[Report]:
    downloader, labelers = Downloader(job.download), None
    for unit in units:
        report = fetch_unit(job, unit, downloader)
        if job.labels:
            labelers = make_labelers(job) if labelers is None else labelers
            report = label_unit(job, unit, labelers)
        yield report


def _run_on_ray(job: BuildJob, units: Sequence[Unit], workers: int) -> Iterator[Report]:
    """Raises: MissingPackageError."""
    if find_spec("ray") is None:
        raise MissingPackageError(f"got {workers} workers, which need Ray Data; pip install 'jointnet[data]', or pass --workers 0")
    from jointnet.data.build.ray_pipeline import run_on_ray

    yield from run_on_ray(job, units, workers)


def _manifest(job: BuildJob, reports: Sequence[Report], settings: dict[str, Any], depth_near_m: float | None) -> Manifest:
    dropped = Counter[str]()
    for report in reports:
        dropped.update(report.dropped)
    return Manifest(
        shards=tuple(report.shard for report in reports if report.shard is not None),
        rows=sum(report.rows for report in reports),
        samples=sum(report.samples for report in reports),
        dropped=dict(dropped.most_common()),
        modalities=job.modalities,
        labelers=settings["labelers"],
        settings=settings,
        depth_near_m=depth_near_m,
    )


def _num_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
