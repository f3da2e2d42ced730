"""docs/bases.md says what the bases are."""

from __future__ import annotations

from pathlib import Path

from jointnet.pipelines.bases import SUPPORTED
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.sampling.schedulers import learns_variance
from tests.bases import BASES, tiny_base

PAGE = (Path(__file__).parents[1] / "docs" / "bases.md").read_text()
ROWS = {
    "Stable Diffusion 1.x": ("sd1",),
    "Stable Diffusion 2.x": ("sd2", "sd2-v"),
    "Stable Diffusion XL": ("sdxl",),
    "DeepFloyd-IF stage I": ("if-1",),
    "DeepFloyd-IF stage II": ("if-2",),
}
ENCODERS = {"ClipEncoder": "one CLIP encoder", "ClipPairEncoder": "two CLIP encoders", "T5PromptEncoder": "T5"}
PREDICTIONS = {"epsilon": "noise", "v_prediction": "v"}


def table() -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[1:]}


def test_every_tested_base_has_its_row_and_every_row_is_tested() -> None:
    rows = table()
    assert rows.keys() == ROWS.keys()
    assert sorted(name for names in ROWS.values() for name in names) == sorted(BASES)
    assert {row[0].strip("`") for row in rows.values()} == set(SUPPORTED)
    for title, names in ROWS.items():
        kind, state, sizes, text, prediction, guidance = rows[title]
        tested = {PREDICTIONS[tiny_base(name).scheduler.config.prediction_type] for name in names}
        assert set(prediction.split(",")[0].split(" or ")) == tested
        for name in names:
            base = tiny_base(name)
            pipeline = JointNetPipeline.from_base(base)
            where = "latent" if pipeline.vae is not None else "pixel"
            assert kind == f"`{type(base).__name__}`"
            assert state.startswith(f"{pipeline.joint_unet.in_channels} {where} channels")
            assert sizes == f"{pipeline.size_multiple} px"
            assert text.startswith(ENCODERS[type(pipeline.prompt_encoder).__name__])
            assert guidance == f"{pipeline.config.default_guidance:g}"
            assert ("learned variance" in prediction) == learns_variance(pipeline.scheduler)
