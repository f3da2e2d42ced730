"""jointnet edit: holes of an image and its dense maps, drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jointnet.cli.arguments import MAPS, SAMPLING, PromptOption, named_file, number, one_prompt, parse_text
from jointnet.cli.command import Group, add_command, takes
from jointnet.cli.inputs import Work, run_on_one
from jointnet.cli.maps import MapFiles, files_by_modality, only_one
from jointnet.cli.sampling import ALL_PANELS, Run, run_arguments
from jointnet.demo.bundled import TASK_MODEL
from jointnet.errors import InputFileError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.tasks.edit import Edit
    from jointnet.tasks.options import SamplingOptions

EXAMPLES = """
jointnet edit --image photo.png --depth depth.png --mask hole.png "a blue ball" -o out
jointnet edit --image photo.png --depth depth.png --depth-mask hole.png -o out
jointnet edit --image photo.png --map albedo=albedo.png --mask-of albedo=hole.png --model my-model -o out
"""
MASKS = "Masks"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "edit", edit, examples=EXAMPLES, panel="Sample", holds_warnings=True)


def _mask(name: str, help_: str) -> Any:
    return typer.Option(name, metavar="MASK", help=help_, rich_help_panel=MASKS)


@takes(files=Group.of(MapFiles), run=run_arguments(*ALL_PANELS, model=TASK_MODEL))
def edit(
    run: Run,
    files: MapFiles,
    image: Annotated[Path, typer.Option("--image", metavar="IMAGE", help="the picture", rich_help_panel=MAPS)],
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", parser=parse_text, help="what to draw")] = None,
    prompt_option: PromptOption = None,
    mask: Annotated[Path | None, _mask("--mask", "white where the image and all maps are drawn anew")] = None,
    image_mask: Annotated[Path | None, _mask("--image-mask", "for the image only")] = None,
    depth_mask: Annotated[Path | None, _mask("--depth-mask", "for the depth only")] = None,
    normal_mask: Annotated[Path | None, _mask("--normal-mask", "for the normals only")] = None,
    mask_of: Annotated[
        list[Any] | None,
        typer.Option("--mask-of", parser=named_file, metavar="MODALITY=MASK", help="for a map of any modality only", rich_help_panel=MASKS),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            parser=number(0, 1),
            metavar="N",
            help="less than 1 keeps more of what is in the holes (0 to 1)",
            rich_help_panel=SAMPLING,
        ),
    ] = 1.0,
) -> int:
    """Draw holes of an image and its dense maps anew."""
    words = one_prompt(prompt, prompt_option)
    maps = files.single([image])
    short = {"rgb": image_mask, "depth": depth_mask, "normal": normal_mask}
    single = files_by_modality([*((name, path) for name, path in short.items() if path is not None), *(mask_of or ())])
    if (mask is None) == (not single):
        raise InputFileError("got neither or both of --mask and masks of single maps; pass --mask, or --image-mask and --depth-mask")
    named = {name: only_one(f"{name} masks", paths) for name, paths in single.items()}

    unknown = set(named) - set(maps)
    if unknown:
        raise UnknownNameError(f"got a mask for {', '.join(sorted(unknown))} and maps of {', '.join(maps)}; expected the map to each mask")
    masks: dict[str, Tensor] = {}

    def check(maps: Mapping[str, Tensor]) -> None:
        from jointnet.modalities.read import read_mask
        from jointnet.tasks.task import holes

        masks.update({name: read_mask(path) for name, path in named.items()} if mask is None else dict.fromkeys(maps, read_mask(mask)))
        holes(maps, masks, strength)

    def request(maps: dict[str, Tensor], options: SamplingOptions) -> Edit:
        from jointnet.tasks.edit import Edit

        picture, dense = maps["rgb"], {name: value for name, value in maps.items() if name != "rgb"}
        return Edit(image=picture, dense=dense, mask=masks, prompt=words, strength=strength, options=options)

    work = Work(
        command="edit",
        run=run,
        prompt=words,
        request=request,
        facts={"mask": mask or named, "strength": strength},
        masks={f"{name} mask": path for name, path in named.items()} if mask is None else {"mask": mask},
        check=check,
        depth_unit=files.depth_unit,
    )
    return run_on_one(work, maps)
