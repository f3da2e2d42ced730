"""jointnet condition: dense maps -> images of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jointnet.cli.arguments import MAPS, PromptOption, parse_path, parse_text
from jointnet.cli.command import Group, add_command, takes
from jointnet.cli.inputs import Work, run_on_files
from jointnet.cli.maps import MapFiles, files_by_modality
from jointnet.cli.sampling import ALL_PANELS, Run, run_arguments
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.tasks.condition import Condition
    from jointnet.tasks.options import SamplingOptions

EXAMPLES = """
jointnet condition depth.png "a green cylinder on grass at sunset" -o out
jointnet condition normal.png "a red ball" --modality normal --model demo-rgbdn -o out
jointnet condition --depth depth.png --normal normal.png --prompt "a red ball" --model demo-rgbdn -o out
jointnet condition a.npy b.npy --prompt "a red ball" -o out
jointnet condition depths/ "a red ball" -o out
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "condition", condition, examples=EXAMPLES, panel="Sample", holds_warnings=True)


@takes(files=Group.of(MapFiles), run=run_arguments(*ALL_PANELS, model=TASK_MODEL))
def condition(
    run: Run,
    files: MapFiles,
    map_file: Annotated[
        Path | None,
        typer.Argument(metavar="MAP", help="16-bit PNG or .npy, or a folder of them: then OUT holds a folder for each"),
    ] = None,
    rest: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="what to draw; with --prompt these are further maps instead")
    ] = None,
    prompt: PromptOption = None,
    modality: Annotated[str, typer.Option("--modality", metavar="NAME", help="what MAP is", rich_help_panel=MAPS)] = "depth",
) -> int:
    """Draw an image of a dense map, or of several."""
    words = list(rest or ())
    others = files.by_modality()
    if map_file is not None and others and not os.path.exists(map_file):
        raise InputFileError(f"got MAP {str(map_file)!r}, which is no file; if it is the prompt, pass it by --prompt")
    if prompt is None and len(words) > 1:
        raise typer.BadParameter(f"got {len(words)} after MAP, expected one; for several maps pass --prompt", param_hint="PROMPT")
    named = [] if map_file is None else [map_file]
    if prompt is None:
        prompt = parse_text(words[0]) if words else ""
    else:
        named += [parse_path(word) for word in words]
    if not named and not others:
        raise typer.BadParameter("got none, expected a file as the argument or by --map, --depth or --normal", param_hint="MAP")
    maps = files_by_modality([(modality, path) for path in named])
    if set(maps) & set(others):
        raise InputFileError(f"got {modality} as MAP and as an option; pass it once")
    text = prompt

    def request(maps: dict[str, Tensor], options: SamplingOptions) -> Condition:
        from jointnet.tasks.condition import Condition

        return Condition(dense=maps, prompt=text, options=options)

    return run_on_files(Work(command="condition", run=run, prompt=text, request=request, depth_unit=files.depth_unit), {**maps, **others})
