"""jointnet predict: image -> dense maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jointnet.cli.arguments import PROMPT, parse_text, whole_number
from jointnet.cli.command import add_command, takes
from jointnet.cli.inputs import Work, run_on_files
from jointnet.cli.sampling import ALL_PANELS, Run, run_arguments
from jointnet.demo.bundled import TASK_MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from jointnet.tasks.options import SamplingOptions
    from jointnet.tasks.predict import Predict

EXAMPLES = """
jointnet predict photo.png --ensemble 8 -o out
jointnet predict a.png b.jpg -o out
jointnet predict photos/ --tiled -o out
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, "predict", predict, examples=EXAMPLES, panel="Sample", holds_warnings=True)


@takes(run=run_arguments(*ALL_PANELS, model=TASK_MODEL))
def predict(
    run: Run,
    image: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="pictures, or folders of them: then OUT holds a folder for each")],
    prompt: Annotated[
        str, typer.Option("--prompt", parser=parse_text, metavar="PROMPT", help="what the picture shows", rich_help_panel=PROMPT)
    ] = "",
    ensemble: Annotated[
        int,
        typer.Option(
            "--ensemble",
            parser=whole_number(1, 1000),
            metavar="N",
            help="merge N samples and write how far they disagree",
            rich_help_panel="Sampling",
        ),
    ] = 1,
) -> int:
    """Predict the dense maps of a picture, or of several."""

    def request(maps: dict[str, Tensor], options: SamplingOptions) -> Predict:
        from jointnet.tasks.predict import Predict

        return Predict(image=maps["rgb"], prompt=prompt, ensemble=ensemble, options=options)

    work = Work(command="predict", run=run, prompt=prompt, request=request, facts={"ensemble": ensemble}, is_merged=ensemble > 1)
    return run_on_files(work, {"rgb": image})
