"""jointnet refine: blurred or small images and dense maps -> sharper ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jointnet.cli.arguments import MAPS, PROMPT, SAMPLING, number, parse_text, whole_number
from jointnet.cli.command import Group, add_command, takes
from jointnet.cli.inputs import Work, run_on_files
from jointnet.cli.maps import MapFiles
from jointnet.cli.sampling import ALL_PANELS, Run, run_arguments
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.tasks.options import SamplingOptions
    from jointnet.tasks.refine import Refine

EXAMPLES = """
jointnet refine --image photo.png --depth coarse.png --only depth -o out
jointnet refine --image photo.png --depth depth.png --scale 2 -o out
jointnet refine --image photos/ --depth depths/ --only depth -o out
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "refine", refine, examples=EXAMPLES, panel="Sample", holds_warnings=True)


@takes(files=Group.of(MapFiles), run=run_arguments(*ALL_PANELS, model=TASK_MODEL))
def refine(
    run: Run,
    files: MapFiles,
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="the picture; several, or a folder, with maps of the same names: then OUT holds a folder for each",
            rich_help_panel=MAPS,
        ),
    ],
    only: Annotated[
        str, typer.Option("--only", metavar="NAME", help="what to refine: image, a modality, or both: all", rich_help_panel=SAMPLING)
    ] = "both",
    strength: Annotated[
        float,
        typer.Option("--strength", parser=number(0, 1), metavar="N", help="how far to go back to noise (0 to 1)", rich_help_panel=SAMPLING),
    ] = 0.4,
    scale: Annotated[
        int,
        typer.Option("--scale", parser=whole_number(1, 16), metavar="S", help="enlarge S times first (1 to 16)", rich_help_panel=SAMPLING),
    ] = 1,
    prompt: Annotated[
        str, typer.Option("--prompt", parser=parse_text, metavar="PROMPT", help="what the picture shows", rich_help_panel=PROMPT)
    ] = "",
) -> int:
    """Sharpen an image and its dense maps, or those of several."""
    refined = None if only == "both" else ["rgb" if only == "image" else only]
    maps = files.by_modality(image)
    if refined is not None and refined[0] not in maps:
        names = ", ".join("image" if name == "rgb" else name for name in maps)
        raise InputFileError(f"got --only {only} and maps of {names}; expected one of them, or both")

    def request(maps: dict[str, Tensor], options: SamplingOptions) -> Refine:
        from jointnet.tasks.refine import Refine

        picture, dense = maps["rgb"], {name: value for name, value in maps.items() if name != "rgb"}
        return Refine(image=picture, dense=dense, prompt=prompt, only=refined, strength=strength, scale=scale, options=options)

    facts = {"only": only, "strength": strength, "scale": scale}
    work = Work(command="refine", run=run, prompt=prompt, request=request, facts=facts, depth_unit=files.depth_unit)
    return run_on_files(work, maps)
