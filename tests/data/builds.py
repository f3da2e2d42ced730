"""Commands that build, and what a finished folder must be like."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jointnet.data.manifest import Manifest, read_manifest
from jointnet.data.shards import ShardSource

ROOT = Path(__file__).parents[2]
QUICK = ("--allow-private", "--min-side", "16", "--rate", "1000", "--pause", "0.01", "--timeout", "1", "--attempts", "2")
"""Options for small pictures of a server that answers at once."""


def start_build(words: Sequence[str | Path]) -> subprocess.Popen[str]:
    """Start ``jointnet data build`` as a process of its own, with what it starts in a group of its own."""
    command = [sys.executable, "-m", "jointnet", "data", "build", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True)


def ids_of(folder: Path, cache: Path) -> list[str]:
    """The ids of all samples of a finished build; every one can be read, and nothing lies there but what the manifest lists."""
    manifest = manifest_of(folder)
    for shard in manifest.shards:
        content = (folder / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
    assert sorted(path.name for path in folder.glob("*.tar")) == [shard.name for shard in manifest.shards]
    assert not [path for path in (folder / "units").iterdir() if path.suffix != ".json" and path.name != ".commit.lock"]
    source = ShardSource(folder, cache)
    assert len(source) == manifest.samples == manifest.rows - sum(manifest.dropped.values())
    for row in range(len(source)):
        source.read(row, manifest.modalities)
    return [source.id_of(row).partition("/")[2] for row in range(len(source))]


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(str(folder))
    assert manifest is not None
    return manifest
