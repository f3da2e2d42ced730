"""jointnet reproduce: the paper's tables on exact truth."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jointnet.cli.arguments import OUTPUT, Device, chosen_device, whole_number
from jointnet.cli.command import add_command, print_written
from jointnet.errors import OutputError, UnknownNameError

EXAMPLES = """
jointnet reproduce --dry-run
jointnet reproduce --work runs/reproduce -o docs/reproduction.md
jointnet reproduce "train jointnet 0" base --steps 200 -o small.md
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "reproduce", reproduce, examples=EXAMPLES, panel="Models")


def reproduce(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="PART", help="parts to run, as --dry-run lists them", show_default="all that are not done")
    ] = None,
    work: Annotated[Path, typer.Option("--work", metavar="DIR", help="folder of runs and pictures", rich_help_panel=OUTPUT)] = Path(
        "runs/reproduce"
    ),
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the page", rich_help_panel=OUTPUT)] = Path(
        "docs/reproduction.md"
    ),
    steps: Annotated[int, typer.Option("--steps", parser=whole_number(1, 10**6), metavar="N", help="of each training")] = 1000,
    batch: Annotated[int, typer.Option("--batch", parser=whole_number(1, 10**4), metavar="N", help="samples a step")] = 32,
    prompts: Annotated[
        int, typer.Option("--prompts", parser=whole_number(20, 10**5), metavar="N", help="pictures that are measured")
    ] = 500,
    scenes: Annotated[int, typer.Option("--scenes", parser=whole_number(64, 10**7), metavar="N", help="of the training data")] = 24_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the parts, and which are done")] = False,
    device: Device = None,
) -> None:
    """Train the baselines and test the paper's claims on the demo world; a stopped run goes on."""
    from jointnet.demo.measure.page import load_figures, save_figures
    from jointnet.reproduction.parts import Reproduction
    from jointnet.reproduction.setting import Budget

    budget = Budget(steps=steps, batch=batch, prompts=prompts, few_prompts=min(100, prompts), scenes=scenes)
    reproduction = Reproduction(work, budget, chosen_device(device or "cpu"))
    unknown = [name for name in parts or () if name not in reproduction.names]
    if unknown:
        raise UnknownNameError(f"got part {unknown[0]!r}; expected some of {', '.join(reproduction.names)}")
    path = output.with_suffix(".json")
    try:
        known = load_figures(path) or {"budget": asdict(budget), "names": reproduction.names, "parts": {}}
        done, stated = known["parts"], known["budget"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"got {str(path)!r}, which is none of this command's; choose another --output") from error
    if _plain(stated) != _plain(asdict(budget)):
        raise OutputError(f"got {str(path)!r} of another budget; choose another --output, or the same numbers")
    waiting = [name for name in parts or reproduction.names if name not in done or parts]
    if dry_run:
        for name in reproduction.names:
            print(f"{'done' if name in done else 'to do'}  {name}{_minutes(done, name)}")
        return

    from jointnet.reproduction.page import write_reproduction

    for number, name in enumerate(waiting, 1):
        print(f"== {name} ({number} of {len(waiting)})", file=sys.stderr, flush=True)
        done[name] = reproduction.run(name)
        save_figures(known, path)
        write_reproduction(known, output, work / "pictures")
    print_written([output, path], output, as_json=False)


def _plain(value: object) -> object:
    """As JSON gives it back."""
    import json

    return json.loads(json.dumps(value))


def _minutes(done: dict, name: str) -> str:
    return f"  {done[name]['minutes']:g} min" if name in done else ""
