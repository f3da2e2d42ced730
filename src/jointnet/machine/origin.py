"""Which code ran, and on what: it stands beside every figure."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jointnet.machine.precision import multiplies_bfloat16


def code_commit() -> str:
    """Return the commit of the working copy this package runs from, with "+changes" if it has any; the version if it is installed."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {version('jointnet')}"


def machine() -> dict[str, Any]:
    """Return processor, cores and library versions."""
    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.processor())
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    processor = {"processor": model, "multiplies_bfloat16": multiplies_bfloat16(), "cores": os.cpu_count()}
    return {**processor, "python": platform.python_version(), **libraries}


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
