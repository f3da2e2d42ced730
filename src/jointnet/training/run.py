"""A run's folder: held by one process, and known by the settings and contents it was started with.

Files of others may lie in it, but none under a name that a run writes. A run that fails before its first state leaves nothing but whole
latents and their index.

What may change when a run resumes: the number of steps (not below those trained), the budget, the device, and where folders lie.
Everything else makes another run, which is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jointnet.checkpoints.folder import check_replaceable
from jointnet.data.latents import check_latents
from jointnet.errors import OutputError, RunFolderError
from jointnet.files.atomic import write_json
from jointnet.files.content_index import is_index
from jointnet.files.json_files import read_named_values
from jointnet.files.lock import check_lock, locked
from jointnet.files.result_facts import PROGRAM
from jointnet.files.result_set import filling
from jointnet.files.write_errors import naming_write_errors, reason
from jointnet.training.config import OptimConfig, TrainConfig
from jointnet.training.state import CHOSEN_LATER, STATE_FILE, Progress, read_progress
from jointnet.training.stopping import tidy_termination

RUN_FILE = "run.json"
"""The run's facts and configuration, for people to read: what is believed stands in the state."""

LATENTS, MODEL = "latents", "model"
"""Folders of a run."""

INDEX_FILE, SAMPLES_FILE = "files.sqlite", "files.samples"
"""In LATENTS: hashes of the data's files, and their list."""


@contextmanager
def open_run(run_dir: Path) -> Iterator[None]:
    """Create a run's folder and hold it, so that a second run in it is refused; SIGTERM tidies up as Ctrl-C does.

    After an error, what no resumed run needs is removed again. Nested calls are allowed.
    Raises: OutputError, RunFolderError, see ``check_run_folder``.
    """
    check_run_folder(run_dir)
    with ExitStack() as stack:
        stack.enter_context(tidy_termination())
        with naming_write_errors(run_dir):
            stack.enter_context(filling(run_dir))
            stack.enter_context(locked(run_dir))
        stack.enter_context(_removing_what_nobody_needs(run_dir))
        yield


def check_run_folder(run_dir: Path) -> None:
    """Check that whatever has the name of a run's file or folder is of a run of ours; nothing is written.

    Where there is a state or RUN_FILE of ours, other files that cannot be read are damaged ones of ours; elsewhere they are not.
    Raises: RunFolderError for a state that cannot be read; OutputError.
    """
    if run_dir.is_dir():
        with naming_write_errors(run_dir):
            check_lock(run_dir)
    is_ours = read_progress(run_dir, {}).step > 0
    is_ours |= _check_json(run_dir / RUN_FILE, _is_run, may_be_damaged=is_ours)
    check_latents(run_dir / LATENTS, may_be_damaged=is_ours)
    index = run_dir / LATENTS / INDEX_FILE
    if os.path.lexists(index) and not is_index(index) and not (is_ours and index.is_file() and not index.stat().st_size):
        raise OutputError(f"got {str(index)!r}, which no run of ours wrote, or which is damaged; choose another folder, or move it away")
    check_replaceable(run_dir / MODEL)


def _check_json(path: Path, is_ours: Callable[[Mapping[str, Any]], bool], *, may_be_damaged: bool) -> bool:
    """Return True if a file of ours is there. Raises: OutputError if it is another's."""
    if not os.path.lexists(path):
        return False
    try:
        if is_ours(read_named_values(path)):
            return True
        why = "which no run of ours wrote"
    except OSError as error:
        why = f"which cannot be read ({reason(error)})"
    except (ValueError, RecursionError):
        if may_be_damaged:
            return False
        why = "which no run of ours wrote, or which is damaged"
    raise OutputError(f"got {str(path)!r}, {why}; choose another folder, or move it away")


def _is_run(facts: Mapping[str, Any]) -> bool:
    return facts.get("program") == PROGRAM or {"config", "budget_minutes"} <= facts.keys()  # of earlier versions


@contextmanager
def _removing_what_nobody_needs(run_dir: Path) -> Iterator[None]:
    """After an error in a run without state and model, remove RUN_FILE and, unless there are latents, their index."""
    latents = run_dir / LATENTS
    is_new = not os.path.lexists(latents)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if not any(os.path.lexists(run_dir / name) for name in (STATE_FILE, MODEL)):
                (run_dir / RUN_FILE).unlink(missing_ok=True)
                if not any(latents.glob("[!.]*.safetensors")):
                    for name in (INDEX_FILE, SAMPLES_FILE):
                        (latents / name).unlink(missing_ok=True)
            if is_new:
                latents.rmdir()
        raise


def settings_of(config: TrainConfig | OptimConfig) -> dict[str, Any]:
    """Return the settings that a run is known by: all but the number of steps, which may grow.

    What says the same as not being there is left out, so that runs from before it was a choice go on.
    """
    settings = asdict(config)
    settings = {**settings.pop("optim", {}), **settings}
    del settings["steps"]
    return {name: value for name, value in settings.items() if name not in CHOSEN_LATER or value != CHOSEN_LATER[name]}


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
            write_json(path, {"program": PROGRAM, **facts, "config": asdict(config), "budget_minutes": budget_minutes, **more})
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
