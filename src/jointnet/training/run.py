"""A run's folder: held by one process, and known by the settings and contents it was started with.

What may change when a run resumes: the number of steps (not below those trained), the budget, the device, and where folders lie.
Everything else makes another run, which is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jointnet.errors import RunFolderError
from jointnet.files.atomic import write_json
from jointnet.files.lock import LOCK_FILE, locked
from jointnet.files.write_errors import naming_write_errors
from jointnet.training.config import OptimConfig, TrainConfig
from jointnet.training.state import Progress, read_progress
from jointnet.training.stopping import tidy_termination

RUN_FILE = "run.json"
"""The run's facts and configuration, for people to read: what is believed stands in the state."""


@contextmanager
def open_run(run_dir: Path) -> Iterator[None]:
    """Create a run's folder and hold it, so that a second run in it is refused; SIGTERM tidies up as Ctrl-C does.

    A folder in which nothing was written is removed again. Nested calls are allowed.
    Raises: OutputError.
    """
    was_there = run_dir.exists()
    with ExitStack() as stack:
        stack.enter_context(tidy_termination())
        with naming_write_errors(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(run_dir))
        if not was_there:
            stack.callback(_remove_empty, run_dir)
        yield


def _remove_empty(run_dir: Path) -> None:
    if [path.name for path in run_dir.iterdir()] == [LOCK_FILE]:
        (run_dir / LOCK_FILE).unlink()
        run_dir.rmdir()


def settings_of(config: TrainConfig | OptimConfig) -> dict[str, Any]:
    """Return the settings that a run is known by: all but the number of steps, which may grow."""
    settings = asdict(config)
    settings = {**settings.pop("optim", {}), **settings}
    del settings["steps"]
    return settings


def claim(
    run_dir: Path,
    config: TrainConfig | OptimConfig,
    facts: Mapping[str, Any],
    *,
    budget_minutes: float | None = None,
    **more: Any,
) -> Progress:
    """Check that a folder is free, or holds this very run; return how far it has come.

    Unless the run has ended, ``run_dir / RUN_FILE`` is written.

    Args:
        facts: what the run is known by besides its settings: recipe, contents of the data and of the start, size.
        more: about the run, for RUN_FILE.
    Raises: RunFolderError if the folder holds another run, a state that cannot be read, or more steps than asked for; OutputError.
    """
    optim = config.optim if isinstance(config, TrainConfig) else config
    progress = read_progress(run_dir, {**facts, **settings_of(config)})
    check_steps(run_dir, progress, optim)
    if not progress.step or progress.share(optim, budget_minutes) < 1:
        path = run_dir / RUN_FILE
        with naming_write_errors(path):
            run_dir.mkdir(parents=True, exist_ok=True)
            write_json(path, {**facts, "config": asdict(config), "budget_minutes": budget_minutes, **more})
    return progress


def check_steps(run_dir: Path, progress: Progress, config: OptimConfig) -> None:
    """Raises: RunFolderError if a run has more steps behind it than it is to have in all."""
    if progress.step > config.steps:
        raise RunFolderError(
            f"got {config.steps} steps for {str(run_dir)!r}, which has trained {progress.step}; pass at least as many, or another folder"
        )


def print_finished(run_dir: Path, progress: Progress) -> None:
    """Print one line about a run that was started again after its end."""
    print(
        f"{run_dir} holds this run, finished after {progress.step} steps ({progress.seconds / 60:.0f} minutes); nothing is trained. "
        "More steps, or a larger budget, would train it on",
        file=sys.stderr,
        flush=True,
    )
