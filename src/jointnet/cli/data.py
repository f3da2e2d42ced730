"""jointnet data: build data sets."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import LONGEST_SIDE, MODEL, OUTPUT, AsJson, DepthUnitName, Device, choice, chosen_device, number, whole_number
from jointnet.cli.command import Group, add_command, facts_of_written, print_json, print_written, takes
from jointnet.errors import OutputError, UnknownNameError
from jointnet.files.result_set import check_folder

if TYPE_CHECKING:
    from jointnet.data.build.download import DownloadSettings
    from jointnet.data.build.filters import Filters
    from jointnet.data.build.folder import Report
    from jointnet.data.build.stages import LabelerFactory
    from jointnet.data.manifest import Manifest

EXAMPLES = """
jointnet data build coyo-700m --label depth=midas --label normal=omnidata -o my-shards
jointnet data build photos --workers 0 --label depth=depth-anything -o my-shards
"""
FILTERS, DOWNLOADS, WORK = "Filters", "Downloads", "Work"
_MEGABYTE = 2**20


def _option(name: str, parser: Any, metavar: str, help_: str, panel: str, default: str | None = None) -> Any:
    return typer.Option(name, parser=parser, metavar=metavar, help=help_, show_default=default or True, rich_help_panel=panel)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a command takes of rows and pictures; None: as the filters that are named."""

    filters: Annotated[
        str | None,
        choice(
            "--filters", names=("paper", "none"), panel=FILTERS, help_="limits that are not named", default="paper for .parquet, else none"
        ),
    ] = None
    min_side: Annotated[
        int | None, _option("--min-side", whole_number(0, LONGEST_SIDE), "PX", "width and height are larger", FILTERS, "512")
    ] = None
    max_watermark: Annotated[
        float | None, _option("--max-watermark", number(0, 1), "P", "the watermark score is lower", FILTERS, "0.5")
    ] = None
    min_aesthetic: Annotated[
        float | None, _option("--min-aesthetic", number(0, 10), "S", "the aesthetic score is higher", FILTERS, "5")
    ] = None
    max_pixels: Annotated[
        int, _option("--max-pixels", whole_number(1, 10**9), "N", "larger pictures are not decoded", FILTERS)
    ] = 50_000_000  # fmt: skip

    def chosen(self, *, is_list: bool) -> Filters:
        """Return the filters for a list of links, or another input."""
        from jointnet.data.build.filters import PAPER_FILTERS, Filters

        is_paper = is_list if self.filters is None else self.filters == "paper"
        limits = {name: getattr(self, name) for name in ("min_side", "max_watermark", "min_aesthetic")}
        return replace(PAPER_FILTERS if is_paper else Filters(), **{name: value for name, value in limits.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Downloads:
    """How links are followed."""

    rate: Annotated[float, _option("--rate", number(0.001, 10_000), "N", "requests a second to one host", DOWNLOADS)] = 10.0
    timeout: Annotated[float, _option("--timeout", number(0.1, 3600), "S", "seconds for a link with its redirects", DOWNLOADS)] = 60.0
    attempts: Annotated[int, _option("--attempts", whole_number(1, 100), "N", "at a host that is busy", DOWNLOADS)] = 3
    pause: Annotated[
        float, _option("--pause", number(0, 600), "S", "seconds before the second attempt, then twice as long each", DOWNLOADS)
    ] = 1.0
    threads: Annotated[int, _option("--threads", whole_number(1, 1000), "N", "downloads at once, of one worker", DOWNLOADS)] = 32
    max_megabytes: Annotated[float, _option("--max-mb", number(0.001, 10_000), "MB", "of one picture", DOWNLOADS)] = 50.0
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="also addresses of this machine and its network", rich_help_panel=DOWNLOADS)
    ] = False

    def settings(self) -> DownloadSettings:
        """Return them as the downloader takes them."""
        from jointnet.data.build.connection import TimeLimits
        from jointnet.data.build.download import DownloadSettings

        usual = TimeLimits()
        return DownloadSettings(
            allow_private=self.allow_private,
            limits=TimeLimits(connect_s=min(usual.connect_s, self.timeout), read_s=min(usual.read_s, self.timeout), total_s=self.timeout),
            max_bytes=int(self.max_megabytes * _MEGABYTE),
            rate=self.rate,
            attempts=self.attempts,
            pause_s=self.pause,
            threads=self.threads,
        )


def add_to(app: typer.Typer) -> None:
    """Add the command and its actions."""
    actions = typer.Typer(help="Build data sets: shards of pictures with captions and maps.")
    actions.callback()(_data)
    add_command(actions, "data build", build, examples=EXAMPLES)
    app.add_typer(actions, name="data", rich_help_panel="Models")


def _data() -> None:
    """Build data sets: shards of pictures with captions and maps."""


@takes(limits=Group.of(Limits), downloads=Group.of(Downloads))
def build(
    limits: Limits,
    downloads: Downloads,
    input_: Annotated[
        str, typer.Argument(metavar="INPUT", help="links as .parquet, .tar shards, or a folder of pictures; paths, patterns, URLs")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="folder of the shards", rich_help_panel=OUTPUT)],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="MODALITY=NAME[:WEIGHTS]", help="maps to add (docs/labels.md)", rich_help_panel=MODEL),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option("--maps", metavar="NAMES", help="maps that a folder or shards have", show_default="none", rich_help_panel=MODEL),
    ] = None,
    depth_unit: DepthUnitName = "disparity",
    shorter_side: Annotated[
        int, _option("--shorter-side", whole_number(8, LONGEST_SIDE), "PX", "larger pictures are shrunk to it", OUTPUT)
    ] = 1024,
    full_size: Annotated[bool, typer.Option("--full-size", help="no picture is shrunk", rich_help_panel=OUTPUT)] = False,
    rows_per_shard: Annotated[
        int, _option("--rows-per-shard", whole_number(1, 10_000_000), "N", "of the input; some are dropped", OUTPUT)
    ] = 10_000,
    workers: Annotated[
        int | None,
        _option("--workers", whole_number(0, 100_000), "N", "processes of Ray; 0: this one", WORK, "one a core; 0 without Ray"),
    ] = None,
    cache: Annotated[
        Path, typer.Option("--cache", metavar="DIR", help="folder of downloaded shards and indexes", rich_help_panel=WORK)
    ] = Path("~/.cache/jointnet/shards"),
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Filter, download, check and label pictures, and write them as tar shards; a build that was stopped goes on."""
    check_folder(output)
    if Path(input_).is_dir() and output.resolve().is_relative_to(Path(input_).resolve()):
        raise OutputError(f"got output folder {str(output)!r} in the input {input_!r}; choose one beside it with -o")

    from jointnet.data.build.checks import PictureSettings
    from jointnet.data.build.open_input import InputSettings, holds_links, open_input
    from jointnet.data.build.pipeline import build as run
    from jointnet.data.build.stages import BuildJob

    filters = limits.chosen(is_list=holds_links(input_))
    names = () if maps is None else tuple(name.strip() for name in maps.split(","))
    job = BuildJob(
        rows=open_input(input_, filters, InputSettings(cache=cache.expanduser(), maps=names, depth_unit=depth_unit)),
        output=output.absolute(),
        labels=_labelers(label or ()),
        pictures=PictureSettings(filters=filters, max_pixels=limits.max_pixels, shorter_side=None if full_size else shorter_side),
        download=downloads.settings(),
        rows_per_shard=rows_per_shard,
        device=None if device is None else str(chosen_device(device)),
    )
    manifest = run(job, workers=workers, progress=_print_progress)
    _print_manifest(manifest, output, as_json=as_json)


def _labelers(labels: list[str] | tuple[str, ...]) -> dict[str, LabelerFactory]:
    """Return by modality what makes its labeler. Raises: UnknownNameError, ModelFolderError if its weights are missing."""
    if not labels:
        return {}
    from jointnet.data.labelers.registry import parse_label

    found: dict[str, LabelerFactory] = {}
    for modality, labeler in map(parse_label, labels):
        if modality in found:
            raise UnknownNameError(f"got two labelers of {modality}; expected one --label of each modality")
        labeler.check()
        found[modality] = labeler
    return found


def _print_progress(done: int, total: int, report: Report) -> None:
    print(f"unit {done} of {total}: {report.samples} samples of {report.rows} rows", file=sys.stderr, flush=True)


def _print_manifest(manifest: Manifest, output: Path, *, as_json: bool) -> None:
    """Print what was written, and on stderr what was dropped."""
    from jointnet.data.manifest import MANIFEST_FILE

    dropped = "".join(f"; {count} dropped: {reason}" for reason, count in manifest.dropped.items())
    print(f"{manifest.samples} samples of {manifest.rows} rows{dropped}", file=sys.stderr)
    files = [output / shard.name for shard in manifest.shards] + [output / MANIFEST_FILE]
    if as_json:
        counts = {"rows": manifest.rows, "samples": manifest.samples, "dropped": dict(manifest.dropped)}
        print_json({**facts_of_written(files, output), **counts})
    else:
        print_written(files, output, as_json=False)
