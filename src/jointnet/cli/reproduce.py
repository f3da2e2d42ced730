"""jointnet reproduce: the paper's tables, on exact truth or on a public base and data."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import OUTPUT, Device, chosen_device, whole_number
from jointnet.cli.command import Group, add_command, print_written, takes
from jointnet.errors import ModelFolderError, UnknownNameError

if TYPE_CHECKING:
    from jointnet.reproduction.parts import Reproduction
    from jointnet.reproduction.setting import Budget

EXAMPLES = """
jointnet reproduce --dry-run
jointnet reproduce --work runs/reproduce -o docs/reproduction.md
jointnet reproduce "train jointnet 0" base --steps 200 -o small.md
jointnet reproduce --base sd21-base --dry-run
jointnet reproduce --base sd21-base --data my-shards --label depth=midas --captions coco:coco --reference coco/val2014 -o sd21.md
"""
PUBLIC = "A public base (without --base: the demo world)"


def _number(name: str, low: int, help_: str, default: str | None = None) -> Any:
    return typer.Option(name, parser=whole_number(low, 10**9), metavar="N", help=help_, show_default=default or True)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is trained and measured; None: as the place where the claims are tested has it."""

    steps: Annotated[int | None, _number("--steps", 1, "of each training", "500; of a public base 10000")] = None
    batch: Annotated[int | None, _number("--batch", 1, "samples a step", "32; 256")] = None
    prompts: Annotated[int | None, _number("--prompts", 20, "pictures that are measured", "300; 30000")] = None
    scenes: Annotated[int, _number("--scenes", 64, "of the demo world's training data")] = 16_000

    def of(self, usual: Budget) -> Budget:
        """A budget with what was chosen."""
        chosen = {name: value for name in ("steps", "batch", "prompts") if (value := getattr(self, name)) is not None}
        budget = replace(usual, scenes=self.scenes, **chosen)
        checkpoints = tuple(step for step in budget.checkpoints if step <= budget.steps)
        return replace(budget, checkpoints=checkpoints, few_prompts=min(budget.few_prompts, budget.prompts))


@dataclass(frozen=True, kw_only=True)
class Public:
    """A public base with data of the user's."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="its folder or hub id", rich_help_panel=PUBLIC)] = None
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="training data, as jointnet train takes them", rich_help_panel=PUBLIC)
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="MODALITY=NAME[:WEIGHTS]", help="maps that the data have not", rich_help_panel=PUBLIC),
    ] = None
    size: Annotated[
        int, typer.Option("--size", parser=whole_number(8, 8192), metavar="PX", help="training size", rich_help_panel=PUBLIC)
    ] = 512
    micro_batch: Annotated[
        int | None,
        typer.Option(
            "--micro-batch",
            parser=whole_number(1, 100_000),
            metavar="N",
            help="samples at once in a process",
            show_default="its share of a batch",
            rich_help_panel=PUBLIC,
        ),
    ] = None
    captions: Annotated[
        str | None, typer.Option("--captions", metavar="FILE", help="prompts: a text file, or coco:DIR", rich_help_panel=PUBLIC)
    ] = None
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="real pictures for distances", rich_help_panel=PUBLIC)
    ] = None
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME[:WEIGHTS]", help="as jointnet evaluate generation", rich_help_panel=PUBLIC),
    ] = None
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="NAME:DIR", help="pictures with depth, as jointnet evaluate depth", rich_help_panel=PUBLIC),
    ] = None


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "reproduce", reproduce, examples=EXAMPLES, panel="Models")


@takes(sizes=Group.of(Sizes), public=Group.of(Public))
def reproduce(
    sizes: Sizes,
    public: Public,
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="PART", help="parts to run, as --dry-run lists them", show_default="all that are not done")
    ] = None,
    work: Annotated[Path, typer.Option("--work", metavar="DIR", help="folder of runs and pictures", rich_help_panel=OUTPUT)] = Path(
        "runs/reproduce"
    ),
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="the page", rich_help_panel=OUTPUT)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the parts and what they cost; run nothing")] = False,
    device: Device = None,
) -> None:
    """Train the baselines and test the paper's claims, on the demo world or on a public base.

    A stopped run goes on; several at once, with one --work, share the parts. What the file beside the page holds is not run again: to check
    every figure, choose a new --output and a new --work; the page says how long it took. When all is done, the page is written anew.
    """
    from jointnet.reproduction.claims import verdicts
    from jointnet.reproduction.page import write_reproduction
    from jointnet.reproduction.public_page import write_public
    from jointnet.reproduction.record import Record

    of_a_base = ("data", "label", "captions", "reference", "features", "truth")
    ignored = [name for name in of_a_base if public.base is None and getattr(public, name)]
    if ignored:
        raise UnknownNameError(f"got --{ignored[0]} without --base; the demo world has its own: pass --base too, or leave it out")
    page = output or (Path("docs/reproduction.md") if public.base is None else work / "reproduction.md")
    reproduction = _demo(sizes, work, device) if public.base is None else _public(public, sizes, work, device, is_planned=dry_run)
    unknown = [name for name in parts or () if name not in reproduction.names]
    if unknown:
        listed = ", ".join(f'"{name}"' for name in reproduction.names)
        raise UnknownNameError(f"got part {unknown[0]!r}; expected some of {listed}: with the quotes, names have spaces")
    record = Record(page.with_suffix(".json"), reproduction.budget, reproduction.names, work)
    done = record.read()["parts"]
    if dry_run:
        _list(reproduction, done, public)
        return

    def write(known: dict[str, Any]) -> None:
        if public.base is None:
            write_reproduction(known, page, work / "pictures")
        else:
            write_public(known, page, public.base)

    waiting = list(parts or [name for name in reproduction.names if name not in done])
    for number, name in enumerate(waiting, 1):
        with record.taking(name) as is_ours:
            if not is_ours or record.read()["parts"].get(name) != done.get(name):  # it is being done, or was done meanwhile
                print(f"== {name} ({number} of {len(waiting)}) is left to another process", file=sys.stderr, flush=True)
                continue
            print(f"== {name} ({number} of {len(waiting)})", file=sys.stderr, flush=True)
            with record.adding(name, reproduction.run(name)) as known:
                write(known)
    if not waiting:
        write(record.read())
    print_written([page, record.path], page, as_json=False)
    if public.base is None:
        for claim, verdict, words in verdicts(record.read()["parts"]):
            print(f"{verdict}: {claim.text} ({claim.source}){': ' if words else ''}{words}")


def _demo(sizes: Sizes, work: Path, device: str | None) -> Reproduction:
    from jointnet.reproduction.parts import Reproduction
    from jointnet.reproduction.setting import Budget

    return Reproduction(work, sizes.of(Budget()), chosen_device(device or "cpu"))


def _public(public: Public, sizes: Sizes, work: Path, device: str | None, *, is_planned: bool) -> Reproduction:
    """Raises: JointNetError."""
    from jointnet.loading import model_folder
    from jointnet.reproduction.public import PAPER, PublicMeasures, PublicReproduction

    assert public.base is not None, "asked before"
    base, budget, chosen = model_folder(public.base), sizes.of(PAPER), chosen_device(device)
    if is_planned:
        return PublicReproduction(work, budget, chosen, base=base, size=public.size)

    from jointnet.cli.sources import check_source, open_source
    from jointnet.data.labelers.registry import parse_label
    from jointnet.evaluation.data.readers import open_truth
    from jointnet.evaluation.features import open_extractor
    from jointnet.evaluation.generation import list_pictures
    from jointnet.evaluation.prompts import open_prompts
    from jointnet.training.config import RunOptions

    if public.data is None or public.captions is None:
        raise UnknownNameError("got --base without --data and --captions; pass what is trained on and what is drawn, or --dry-run")
    check_source(public.data)
    measures = PublicMeasures(
        budget=budget,
        prompts=open_prompts(public.captions, budget.prompts).texts,
        extractors=[open_extractor(name).to(chosen) for name in dict.fromkeys(public.features or ["eff-lite0"])],
        base_folder=base,
        work=work,
        size=public.size,
        device=chosen,
        reference=None if public.reference is None else list_pictures(public.reference),
        truth=None if public.truth is None else open_truth(public.truth),
    )
    return PublicReproduction(
        work,
        budget,
        chosen,
        base=base,
        source=open_source(public.data, public.size, "disparity", work),
        size=public.size,
        labels={modality: choice().to(chosen) for modality, choice in map(parse_label, public.label or ())},
        options=RunOptions(micro_batch_size=public.micro_batch, has_gradient_checkpointing=chosen.type != "cpu"),
        public=measures,
    )


def _list(reproduction: Reproduction, done: dict[str, Any], public: Public) -> None:
    """Print the parts, and of a public base what each training costs."""
    if public.base is None:
        for name in reproduction.names:
            minutes = f"  {done[name]['minutes']:g} min" if name in done else ""
            print(f"{'done' if name in done else 'to do'}  {name}{minutes}")
        return

    from jointnet.reproduction.public import GPU_TFLOPS, UTILISATION, PublicReproduction, plan

    assert isinstance(reproduction, PublicReproduction)
    rows = plan(_config(reproduction.base, "unet"), public.size, _factor(reproduction.base), reproduction.budget, reproduction.names)
    print(
        f"one GPU of {GPU_TFLOPS:g} TFLOP/s, of which {UTILISATION:.0%} are assumed to be reached; trainings without sampling and encoding"
    )
    print(f"{'part':28} {'samples':>12} {'TFLOP each':>11} {'hours, 1 GPU':>13} {'64 GPUs':>8}")
    for name, samples, each, hours in rows:
        print(f"{name:28} {samples:12,} {each:11.2f} {hours:13,.1f} {hours / 64:8.2f}{'  done' if name in done else ''}")
    samples, hours = sum(row[1] for row in rows), sum(row[3] for row in rows)
    print(f"{'all trainings':28} {samples:12,} {'':11} {hours:13,.1f} {hours / 64:8.2f}")
    print(f"on the demo world only: {', '.join(reproduction.left_out)}")


def _factor(base: Path) -> int:
    """Pixels of one of the state's."""
    return 2 ** (len(_config(base, "vae").get("block_out_channels", [0])) - 1) if (base / "vae").is_dir() else 1


def _config(base: Path, part: str) -> dict[str, Any]:
    """Raises: ModelFolderError."""
    try:
        return json.loads((base / part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"got {str(base)!r} without {part}/config.json ({error}); expected a text-to-image pipeline's folder"
        ) from error
