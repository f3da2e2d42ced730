"""GLB files before the Khronos validator. Slow: needs Node and its package, which `make test-slow` installs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jointnet.geometry.files import write_mesh
from jointnet.geometry.mesh import build_mesh
from tests.geometry.test_geometry import LENSES, exact_depth, size_of

PACKAGES = Path(sys.prefix) / "node_modules"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="the validator is an npm package: install Node and npm")
def test_the_khronos_validator_finds_no_error(tmp_path: Path) -> None:
    assert (PACKAGES / "gltf-validator").is_dir(), "run `make test-slow`, which installs gltf-validator"
    rng = np.random.default_rng(0)
    paths = []
    for index, lens in enumerate(LENSES):
        picture = rng.integers(0, 256, (*size_of(lens), 3), np.uint8)
        paths.append(write_mesh(build_mesh(picture, exact_depth(lens, index), lens), tmp_path / f"{index}.glb"))
    script = Path(__file__).with_name("validate.mjs")
    command = ["node", str(script), str(PACKAGES), *map(str, paths)]
    reports = [json.loads(line) for line in subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()]
    assert len(reports) == len(paths)
    for report in reports:
        assert report["numErrors"] == 0, report
        assert report["numWarnings"] == 0, report
