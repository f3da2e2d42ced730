"""Stable Diffusion 2.1-base at its full size, random weights: what it needs of this machine's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "full_size.py"
LIMIT_GIB = 12e9 / 2**30


@pytest.mark.slow
@pytest.mark.parametrize("case", ["image", "panorama"])
def test_it_stays_within_12_gb(case: str) -> None:
    printed = subprocess.run([sys.executable, SCRIPT, case], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.strip().splitlines()[-1])["peak_gib"] < LIMIT_GIB
