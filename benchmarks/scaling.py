"""The plan for a large run: python benchmarks/scaling.py writes docs/scaling.md and docs/scaling.json.

It counts operations of full-size networks on tensors without data, measures the bytes of samples as ``jointnet data build`` writes them,
counts the shards that machines need from the order of reading, takes rates of building from docs/benchmarks.json, and multiplies. What is
assumed and not measured stands in ``Plan``.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, DPTConfig, DPTForDepthEstimation

from jointnet.data.build.checks import PictureSettings
from jointnet.data.build.filters import Filters
from jointnet.data.build.open_input import InputSettings, open_input
from jointnet.data.build.pipeline import build
from jointnet.data.build.stages import BuildJob
from jointnet.data.labelers.network import PAPER_SIZE
from jointnet.data.labelers.registry import parse_label
from jointnet.data.order import BatchPlan
from jointnet.demo.measure.page import load_figures, origin, save_figures, table, write_page
from jointnet.machine.origin import code_commit, machine
from jointnet.models.joint_unet import JointUNet
from jointnet.recipes import stage1

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.data import brightness, write_pictures  # noqa: E402 - found from here only
from benchmarks.full_size import TEXT, UNET, VAE  # noqa: E402 - as above

PAGE = ROOT / "docs" / "scaling.md"
_VOCABULARY = 49_408


@dataclass(frozen=True)
class Plan:
    """What the plan assumes.

    Attributes:
        samples: of the data (Sec. 3.3).
        gpus, gpus_per_machine, gpu_tflops: 64 A100 (Sec. 3.4) and their dense bfloat16 peak.
        utilisation: share of that peak which training and labelling reach; not measured here.
        shorter_side: pixels of the stored pictures, at the training size.
        rows_per_shard: ``jointnet data build``'s default.
        paper_seconds: a step of the paper: 24 hours for 10,000.
    """

    samples: int = 65_000_000
    gpus: int = 64
    gpus_per_machine: int = 8
    gpu_tflops: float = 312.0
    utilisation: float = 0.35
    shorter_side: int = 512
    rows_per_shard: int = 10_000
    paper_seconds: float = 8.64

    @property
    def machines(self) -> int:
        return self.gpus // self.gpus_per_machine

    def gpu_seconds(self, teraflops: float) -> float:
        """Time of so many operations on one GPU."""
        return teraflops / (self.gpu_tflops * self.utilisation)


def count_operations() -> dict[str, float]:
    """Tera-operations for one sample: a step of each stage, and what makes its inputs."""
    with torch.device("meta"):
        joint = JointUNet.from_unet(UNet2DConditionModel(**UNET))
        vae, text = AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**TEXT, vocab_size=_VOCABULARY, max_position_embeddings=77))
        dpt = DPTForDepthEstimation(dpt_hybrid())
        picture, square = torch.empty(1, 3, 512, 512), torch.empty(1, 3, PAPER_SIZE, PAPER_SIZE)
        tokens = torch.zeros(1, 77, dtype=torch.long)
    joint.train().enable_gradient_checkpointing()
    counts = {}
    for name, is_frozen in (("stage 1", True), ("stage 2", False)):
        joint.requires_grad_(True)
        joint.branch("rgb").requires_grad_(not is_frozen)
        counts[name] = counted(lambda: training_step(joint))
    with torch.no_grad():
        counts["encoding one map"] = counted(lambda: vae.encode(picture))
        counts["encoding a caption"] = counted(lambda: text(tokens))
        counts["one label"] = counted(lambda: dpt(square))
    return counts


def dpt_hybrid() -> DPTConfig:
    """Return the shape of Intel/dpt-hybrid-midas: ViT-B/16 on a ResNet-50 of BiT."""
    return DPTConfig(
        is_hybrid=True,
        image_size=PAPER_SIZE,
        neck_hidden_sizes=[256, 512, 768, 768],
        reassemble_factors=[1, 1, 1, 0.5],
        backbone_featmap_shape=[1, 1024, PAPER_SIZE // 16, PAPER_SIZE // 16],
        backbone_config={
            "model_type": "bit",
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "depths": [3, 4, 9],
            "hidden_sizes": [256, 512, 1024],
            "embedding_size": 64,
            "num_groups": 32,
            "out_features": ["stage1", "stage2", "stage3"],
        },
    )


def training_step(joint: JointUNet) -> None:
    """Forward, with checkpoints, and backward."""
    with torch.device("meta"):
        x, t, text = torch.empty(1, 2, 4, 64, 64), torch.empty(1, 2), torch.empty(1, 77, 1024)
    joint(x, t, text).sample.sum().backward()


def counted(run: Callable[[], object]) -> float:
    """Tera-operations of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return round(counter.get_total_flops() / 1e12, 3)


def count_parameters() -> dict[str, int]:
    """Trained parameters of both stages."""
    with torch.device("meta"):
        joint = JointUNet.from_unet(UNet2DConditionModel(**UNET))
    all_, rgb = (sum(p.numel() for p in network.parameters()) for network in (joint, joint.branch("rgb")))
    return {"stage 1": all_ - rgb, "stage 2": all_}


def normal_of_brightness(rgb: torch.Tensor) -> torch.Tensor:
    """Normals of the height that ``brightness`` is."""
    height = brightness(rgb)
    slopes = [nn.functional.pad(height.diff(dim=dim), (0, 1, 0, 0) if dim == -1 else (0, 0, 0, 1)) for dim in (-1, -2)]
    return normalize(torch.cat([-30 * slopes[0], 30 * slopes[1], torch.ones_like(height)], 1), dim=1)


def sample_bytes(shorter_side: int) -> dict[str, float]:
    """Kilobytes a sample of each kind of file, in shards built from the pictures of benchmarks/data.py; and of the index."""
    labels = ("depth=benchmarks.data:brightness", "normal=benchmarks.scaling:normal_of_brightness")
    with TemporaryDirectory() as scratch:
        photos, out = Path(scratch, "photos"), Path(scratch, "out")
        write_pictures(photos)
        for path in list(photos.iterdir()):
            path.with_suffix(".txt").write_text("a picture")
        job = BuildJob(
            rows=open_input(str(photos), Filters(), InputSettings(cache=Path(scratch, "cache"))),
            output=out,
            labels=dict(map(parse_label, labels)),
            pictures=PictureSettings(shorter_side=shorter_side),
            device="cpu",
        )
        with redirect_stderr(io.StringIO()):
            build(job, workers=0)
        sizes: dict[str, int] = {}
        with tarfile.open(out / "000000.tar") as tar:
            members = tar.getmembers()
        for member in members:
            kind = member.name.partition(".")[2]
            sizes[kind] = sizes.get(kind, 0) + member.size + 512 + -member.size % 512
        sizes["index"] = (out / "000000.tar.index.safetensors").stat().st_size
        count = len({member.name.partition(".")[0] for member in members})
    return {kind: round(size / count / 1000, 3) for kind, size in sizes.items()}


def shards_of_a_machine(plan: Plan, windows: int = 4) -> float:
    """The share of all shards that a machine reads in an epoch, by the order of reading. Counted over some windows."""
    batch, num_shards = stage1().optim.batch_size, 16 * windows
    order = BatchPlan([plan.rows_per_shard] * num_shards, batch, seed=0)
    per_machine = batch // plan.machines
    needed: list[set[int]] = [set() for _ in range(plan.machines)]
    for step in range(num_shards * plan.rows_per_shard // batch):
        rows = [draw.row // plan.rows_per_shard for draw in order.batch(step)]
        for machine_number, shards in enumerate(needed):
            shards.update(rows[machine_number * per_machine : (machine_number + 1) * per_machine])
    return round(sum(map(len, needed)) / plan.machines / num_shards, 3)


def measure(plan: Plan) -> dict[str, Any]:
    """Everything that the plan multiplies."""
    rates = load_figures(ROOT / "docs" / "benchmarks.json")["build"]
    per_core = {label: median(rates["per_second"][f"Ray, 2 workers, {label}"]) / 2 for label in ("no label", "label")}
    return {
        "commit": code_commit(),
        "machine": machine(),
        "plan": asdict(plan),
        "teraflops": count_operations(),
        "trained_parameters": count_parameters(),
        "sample_kb": sample_bytes(plan.shorter_side),
        "shards_of_a_machine": shards_of_a_machine(plan),
        "download_kb": rates["mean_kb"],
        "build_per_second_a_core": {label: round(rate, 2) for label, rate in per_core.items()},
    }


def page(figures: dict[str, Any]) -> list[str]:
    """The parts of the page."""
    plan = Plan(**figures["plan"])
    config, ops, kb = stage1(), figures["teraflops"], figures["sample_kb"]
    batch, steps = config.optim.batch_size, config.optim.steps
    inputs = 2 * ops["encoding one map"] + ops["encoding a caption"]
    seen = batch * steps
    return [
        "# 65 million samples on 64 GPUs",
        "Written by `python benchmarks/scaling.py` from what it counts and measures; none of it was run at this size. Assumed, "
        f"and not measured: {plan.gpus} GPUs of {plan.gpu_tflops:g} TFLOP/s (bfloat16, dense; an A100), {plan.gpus_per_machine} a machine, "
        f"of which training and labelling reach {plan.utilisation:.0%}. Change `Plan` there for other machines.\n\n*{origin(figures)}.*",
        _building(plan, figures),
        _storing(plan, kb),
        _training(plan, figures, inputs, batch, steps),
        _reading(plan, figures, inputs, batch),
        _checkpoints(figures),
        f"""## What follows

- Encoding is {100 * inputs / (ops["stage 1"] + inputs):.0f} % of a step's operations, and encoded samples (float16, two maps) take
  {_bytes(plan.samples * 2 * 4 * 64 * 64 * 2)}, {(kb["jpg"] + kb["depth.png"]) * 1e3 / (2 * 4 * 64 * 64 * 2):.0f} x less than pictures and
  depth: where crops are fixed and a sample is seen more than once, encode once (`caches_latents`).
- The paper's 10,000 steps see {seen:,} samples, {100 * seen / plan.samples:.0f} % of the data. For such a run build a
  twentieth of it, or label while training (`--label depth=midas`): {100 * ops["one label"] / (ops["stage 1"] + inputs):.1f} % more
  operations a map.
- Normals as float16 are {kb["normal.npy"] / kb["jpg"]:.0f} x as large as the picture: for normals alone, label while training.""",
    ]


def _building(plan: Plan, figures: dict[str, Any]) -> str:
    rate, labelled = (figures["build_per_second_a_core"][kind] for kind in ("no label", "label"))
    gpu_hours = plan.samples * plan.gpu_seconds(figures["teraflops"]["one label"]) / 3600
    downloaded = plan.samples * figures["download_kb"] * 1e3
    rows = [
        ["download, check, write", f"{rate:.1f} samples/s a core", f"{_hours(plan.samples / rate / 1000)} on 1,000 cores"],
        ["the same, with writing a map", f"{labelled:.1f} samples/s a core", f"{_hours(plan.samples / labelled / 1000)} on 1,000 cores"],
        [
            "DPT-hybrid at 384 px",
            f"{figures['teraflops']['one label']} TFLOP a map",
            f"{gpu_hours:,.0f} GPU hours; {_hours(gpu_hours * 3600 / plan.gpus)} on {plan.gpus}",
        ],
        [
            "downloaded",
            f"{figures['download_kb']} kB a picture",
            f"{_bytes(downloaded)}; in three days {_bits(downloaded / (3 * 86_400))}",
        ],
    ]
    return f"""## Building

Of {plan.samples:,} pictures that pass the filters (dead links and rows that are dropped by their columns cost little).

{table(["work", "each", "all"], rows)}

The rates are those of [the benchmark](benchmarks.md#building-shards) with two Ray workers, on {figures["machine"]["processor"]}."""


def _storing(plan: Plan, kb: dict[str, float]) -> str:
    others = kb["json"] + kb["index"]
    cases = {
        "pictures": kb["jpg"] + others,
        "pictures and depth": kb["jpg"] + kb["depth.png"] + others,
        "pictures, depth and normals": kb["jpg"] + kb["depth.png"] + kb["normal.npy"] + others,
    }
    shards = -(-plan.samples // plan.rows_per_shard)
    rows = [
        [name, f"{size:.0f} kB", _bytes(plan.samples * size * 1e3), _bytes(plan.rows_per_shard * size * 1e3)]
        for name, size in cases.items()
    ]
    return f"""## Storing

Shorter side {plan.shorter_side} px; bytes in the tar, headers and all: picture {kb["jpg"]:.0f} kB, depth {kb["depth.png"]:.0f} kB
(16-bit PNG), normals {kb["normal.npy"]:.0f} kB (float16), JSON {kb["json"]:.1f} kB, index {1000 * kb["index"]:.0f} bytes. The pictures
are synthetic (smooth, with a camera's noise): count your own.

{table(["what", "a sample", "all", f"a shard of {plan.rows_per_shard:,}"], rows)}

{shards:,} shards; their indexes together are {_bytes(plan.samples * kb["index"] * 1e3)}, mapped from disk and not held in memory."""


def _training(plan: Plan, figures: dict[str, Any], inputs: float, batch: int, steps: int) -> str:
    rows = []
    for stage in ("stage 1", "stage 2"):
        each = figures["teraflops"][stage] + inputs
        seconds = plan.gpu_seconds(each * batch) / plan.gpus
        needed = each * batch / plan.gpus / plan.gpu_tflops
        rows.append(
            [
                stage,
                f"{figures['teraflops'][stage]:.2f} + {inputs:.2f}",
                f"{seconds:.2f} s",
                _hours(seconds * steps),
                _hours(seconds * plan.samples / batch),
                f"{100 * needed / plan.paper_seconds:.1f} %",
            ]
        )
    head = ["stage", "TFLOP a sample (step + encoding)", "a step", f"{steps:,} steps", "all samples once", "the paper's utilisation"]
    return f"""## Training

Batch {batch} ({batch // plan.gpus} a GPU), 512 px, gradient checkpointing (counted); encoders run in the step.

{table(head, rows)}

The paper took about 24 hours for stage 1, {plan.paper_seconds} s a step: that would be the utilisation in the last column. Its time
went elsewhere than into these operations (small batches, labels and data on the fly, float32 parts are candidates); plan with your own
first hundred steps."""


def _reading(plan: Plan, figures: dict[str, Any], inputs: float, batch: int) -> str:
    seconds = plan.gpu_seconds((figures["teraflops"]["stage 1"] + inputs) * batch) / plan.gpus
    kb = figures["sample_kb"]
    each = (kb["jpg"] + kb["depth.png"] + kb["json"]) * 1e3
    share, gradients = figures["shards_of_a_machine"], figures["trained_parameters"]["stage 1"] * 4
    least = 1 / plan.machines
    rate = batch / seconds
    rows = [
        ["samples trained on", f"{rate:,.0f} a second"],
        [
            "shards that a machine needs",
            f"{share:.0%} of each window of 16 (counted by the order of reading; {least:.1%} would be the least)",
        ],
        ["from the store to a machine", _bits(rate * each * share)],
        ["from the store to all machines", _bits(rate * each * share * plan.machines)],
        ["disk of a machine for shards", f"{_bytes(2 * 16 * share * plan.rows_per_shard * each)} (two windows)"],
        [
            "gradients of a step, each GPU sends",
            f"{_bytes(2 * gradients)} (float32, ring): {_bits(2 * gradients / seconds)} without overlap",
        ],
    ]
    return f"""## Reading and exchanging, stage 1

{table(["what", "how much"], rows)}

The order depends on the seed alone, so any number of machines may go on with a run; rows of a shard are neighbours in a batch, so that a
machine does not need every shard. How long steps wait for data on a CPU is [measured](benchmarks.md#waiting-for-data); for a GPU, count
{rate / plan.gpus:.0f} samples a second that its loader workers must decode."""


def _checkpoints(figures: dict[str, Any]) -> str:
    head = ["stage", "trained", "weights", "state: with two moments", "and an average", "held under DDP: state, gradients, bfloat16 copies"]
    rows = [
        [stage, f"{parameters / 1e6:,.0f} M", *(_bytes(each * parameters) for each in (4, 12, 16, 18))]
        for stage, parameters in figures["trained_parameters"].items()
    ]
    seconds = 12 * figures["trained_parameters"]["stage 2"] / 2e9
    return f"""## Checkpoints and memory

float32, as they are saved; a state is one file, whole or not there.

{table(head, rows)}

At 2 GB/s a state of stage 2 takes {seconds:.0f} s to write; by default a run saves each minute with at most a tenth of its time, so about
every {seconds / 6:.0f} minutes then. `--dry-run` estimates what a process needs with activations; under `--fsdp` the state is divided by
the number of GPUs."""


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:,.1f} hours"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _bits(bytes_per_second: float) -> str:
    return f"{8 * bytes_per_second / 1e9:,.2f} Gbit/s"


if __name__ == "__main__":
    figures = measure(Plan())
    save_figures(figures, PAGE.with_suffix(".json"))
    write_page(PAGE, page(json.loads(PAGE.with_suffix(".json").read_text())))
