"""What --data names: a folder, tar shards, or the demo world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jointnet.data.shard_names import holds_shards
from jointnet.errors import DataFolderError

if TYPE_CHECKING:
    from jointnet.data.sample import Source

DEMO_WORLD = "demo-world"


def is_streamed(data: str) -> bool:
    """Return True for data that are read anew each time, unless --set says otherwise: they may be many."""
    return data == DEMO_WORLD or holds_shards(data)


def check_source(data: str) -> None:
    """Raises: DataFolderError for what is no data set, before anything heavy is imported."""
    if not is_streamed(data) and not Path(data).is_dir():
        raise DataFolderError(
            f"got data folder {data!r}, which is no folder; expected pictures with maps and captions, shards (NAME.tar), or {DEMO_WORLD}"
        )


def open_source(data: str, size: int, depth_unit: str, run_dir: Path) -> Source:
    """Open a data set. The demo world is rendered at ``size`` px; remote shards are kept below the run folder while they are read."""
    if data == DEMO_WORLD:
        from jointnet.demo.training.source import SceneSource
        from jointnet.demo.world.cache import RenderedScenes

        return SceneSource(RenderedScenes(size=size))
    if holds_shards(data):
        from jointnet.data.shards import ShardSource

        return ShardSource(data, run_dir / "shards", depth_unit=depth_unit)

    from jointnet.data.folder import FolderSource

    return FolderSource(Path(data), depth_unit=depth_unit)
