"""The reproduction: its claims on invented figures, its objectives on tiny networks, and parts of it run for real (slow)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jointnet.cli.main import main
from jointnet.data.sample import Sample
from jointnet.demo.training.source import SceneSource
from jointnet.demo.world.cache import RenderedScenes
from jointnet.models.direct_extend import DirectExtend
from jointnet.models.joint_unet import JointUNet
from jointnet.reproduction.claims import CLAIMS
from jointnet.reproduction.objectives import image_conditioned
from jointnet.reproduction.page import write_reproduction
from jointnet.reproduction.panoramas import PANORAMAS
from jointnet.reproduction.parts import Reproduction
from jointnet.reproduction.record import Record
from jointnet.reproduction.rgbd_autoencoder import RGBDSource, extended_autoencoder
from jointnet.reproduction.setting import Budget, InverseDepth
from jointnet.reproduction.variants import VARIANTS
from tests.bases import network_inputs, of_branch, tiny_base, tiny_unet


def facts() -> dict[str, Any]:
    machine = {"processor": "none", "cores": 2, "torch": "0", "diffusers": "0"}
    return {"commit": "0" * 40, "machine": machine, "precision": "float32", "minutes": 1.0}


def trained(claims: float, abs_rel: float, **more: Any) -> dict[str, Any]:
    made = {"claims": claims, "fd": 1.0, "kid_x1000": 1.0, "depth_abs_rel": abs_rel}
    return {"about": "x", "seconds": 1.0, "samples": 10, "trained_parameters_m": 1.0, "generated": made, **facts(), **more}


def figures(direct_early: float, ours_early: float = 0.8) -> dict[str, Any]:
    """Invented: a base that finds 80 % of the claims."""
    whole = {"pictures_with_every_claim": 0.3, "kid_x1000": 1.0}
    progress = {"0": {"claims": 0.8, **whole}, "100": {"claims": ours_early, **whole}}
    direct = {"0": {"claims": 0.8, **whole}, "100": {"claims": direct_early, **whole}}
    base = {"claims": 0.8, "fd": 1.0, "kid_x1000": 1.0}
    parts = {
        "base": {"generated": base, "renders": {**base, "claims": 0.98}, **facts()},
        "train jointnet 0": trained(0.79, 0.05, progress=progress, **{"predicted by blending": {"abs_rel": 0.3, "delta1": 0.4}}),
        **{f"train direct-{output} 0": trained(0.7, 0.1, progress=direct) for output in ("copy", "zeros", "random")},
    }
    return {"budget": asdict(Budget(steps=100, batch=4)), "names": [*parts, "stage 2"], "parts": parts}


def test_claims_are_judged_by_the_figures_and_missing_ones_are_said(tmp_path: Path) -> None:
    for early, verdict in ((0.5, "**held**"), (0.79, "**not held**")):
        write_reproduction(figures(early), tmp_path / "page.md", tmp_path / "none")
        lines = (tmp_path / "page.md").read_text().splitlines()
        (of_direct,) = [line for line in lines if line.startswith("| Direct Extend loses it")]
        assert verdict in of_direct
        (of_refinement,) = [line for line in lines if line.startswith("| Refinement by")]
        assert "not yet run" in of_refinement
        assert any("**Not yet run:** stage 2" in line for line in lines)
    write_reproduction(figures(0.5, ours_early=0.6), tmp_path / "page.md", tmp_path / "none")
    assert any("never loses" in line and "**not held**" in line for line in (tmp_path / "page.md").read_text().splitlines())


def test_every_claim_names_its_place_in_the_paper() -> None:
    assert all(claim.source.startswith(("Sec.", "A.")) for claim in CLAIMS)


def test_parts_are_named_once_and_the_first_seeds_come_first() -> None:
    names = Reproduction(Path("work"), Budget(seeds=(0, 1)), torch.device("cpu")).names
    assert len(set(names)) == len(names)
    assert {f"train {name} 0" for name in VARIANTS} <= set(names)
    assert {f"panorama {name}" for name in PANORAMAS} <= set(names)
    assert names.index("train near-dark 0") < names.index("train jointnet 1")


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.kind == "joint"])
def test_every_network_begins_with_the_bases_pictures(name: str) -> None:
    """Direct Extend too: what it loses, it loses by training."""
    unet = tiny_unet("sd2")
    network = VARIANTS[name].build(tiny_unet("sd2"), 0)
    assert isinstance(network, JointUNet | DirectExtend)
    inputs = network_inputs("sd2", 1, 2)
    inputs["timestep"] = torch.full((1, 2), 300)
    with torch.no_grad():
        assert torch.allclose(network(**inputs).sample[:, 0], unet(**of_branch(inputs, 0)).sample, atol=1e-5)


def test_the_image_conditioned_network_begins_as_the_base_on_twice_the_same() -> None:
    unet, inputs = tiny_unet("sd2"), of_branch(network_inputs("sd2", 1, 2), 0)
    twice = {**inputs, "sample": torch.cat([inputs["sample"]] * 2, 1)}
    with torch.no_grad():
        assert torch.allclose(image_conditioned(unet)(**twice).sample, unet(**inputs).sample, atol=1e-5)


def test_sources_that_stand_before_another() -> None:
    source = SceneSource(RenderedScenes("train", size=32))
    plain = source.read(3, ("rgb", "depth"))
    inverse, joined = InverseDepth(source).read(3, ("rgb", "depth")), RGBDSource(source).read(3)
    assert isinstance(inverse, Sample)
    assert torch.equal(inverse.maps["depth"], 1 - plain.maps["depth"])
    assert torch.equal(inverse.maps["rgb"], plain.maps["rgb"])
    assert torch.equal(joined.maps["rgb"], torch.cat([plain.maps["rgb"], plain.maps["depth"]]))
    assert InverseDepth(source).contents(("rgb", "depth"))["depth"] != source.contents(("depth",))["depth"]


def test_the_extended_autoencoder_begins_with_the_bases_pictures() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
    ).eval()
    extended, x = extended_autoencoder(vae), torch.rand(1, 4, 16, 16)
    with torch.no_grad():
        own, latents = vae.encode(x[:, :3]).latent_dist.mean, extended.encode(x).latent_dist.mean
        assert torch.allclose(latents, own, atol=1e-5)
        made = extended.decode(latents).sample
        assert torch.allclose(made[:, :3], vae.decode(own).sample, atol=1e-5)
        assert torch.allclose(made[:, 3], made[:, :3].mean(1), atol=1e-5)


def test_unknown_parts_and_other_budgets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = str(tmp_path / "page.md")
    assert main(["reproduce", "train everything", "-o", page]) == 2
    assert "got part 'train everything'" in capsys.readouterr().err
    assert main(["reproduce", "--dry-run", "-o", page]) == 0
    assert "to do  base" in capsys.readouterr().out
    (tmp_path / "page.json").write_text(json.dumps({"budget": {"steps": 3}, "names": [], "parts": {}}))
    assert main(["reproduce", "base", "-o", page]) == 2
    assert "of another budget" in capsys.readouterr().err
    assert not Path(page).exists()


def test_options_of_a_public_base_need_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--captions", "prompts.txt", "--dry-run", "-o", str(tmp_path / "page.md")]) == 2
    assert "got --captions without --base" in capsys.readouterr().err


def record_in(folder: Path) -> Record:
    return Record(folder / "page.json", Budget(), ("base", "stage 2"), folder / "work")


def test_a_part_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    """The other one is a process of its own, as two terminals would have it."""
    code = """
import sys, time
from pathlib import Path
from tests.reproduction.test_reproduction import record_in
with record_in(Path(sys.argv[1])).taking("base") as is_ours:
    print(is_ours, flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    record = record_in(tmp_path)
    try:
        assert other.stdout.readline().strip() == "True"
        with record.taking("base") as is_ours:
            assert not is_ours
        with record.taking("stage 2") as is_ours:
            assert is_ours
    finally:
        other.communicate()
    with record.taking("base") as is_ours:
        assert is_ours


def test_figures_that_another_process_added_meanwhile_stay(tmp_path: Path) -> None:
    first, second = record_in(tmp_path), record_in(tmp_path)
    assert first.read()["parts"] == second.read()["parts"] == {}
    with first.taking("base"), second.taking("stage 2"):
        with first.adding("base", {"minutes": 1}) as known:
            assert list(known["parts"]) == ["base"]
        with second.adding("stage 2", {"minutes": 2}) as known:
            assert known["parts"] == {"base": {"minutes": 1}, "stage 2": {"minutes": 2}}


@pytest.mark.slow
def test_a_resumed_training_still_has_the_figures_of_its_checkpoints(tmp_path: Path) -> None:
    budget = Budget(steps=2, batch=2, prompts=20, few_prompts=20, sampling_steps=2, scenes=64, checkpoints=(0, 1, 2))
    first, again = (Reproduction(tmp_path, budget, torch.device("cpu")).run("train direct-zeros 0") for _ in range(2))
    assert list(again["progress"]) == ["0", "1", "2"]
    assert again["progress"] == first["progress"]
    assert again["generated"] == first["generated"]


@pytest.mark.slow
def test_panoramas_that_were_made_are_not_made_again(tmp_path: Path) -> None:
    def measured(work: str, seeds: int) -> dict[str, Any]:
        budget = Budget(prompts=20, sampling_steps=2, scenes=64, panoramas=(1, seeds))
        return Reproduction(tmp_path / work, budget, torch.device("cpu")).run("panorama paper")

    measured("stopped", 1)
    (first,) = (tmp_path / "stopped" / "panoramas").rglob("*.safetensors")
    written = first.stat().st_mtime_ns
    resumed, whole = measured("stopped", 2), measured("whole", 2)
    assert first.stat().st_mtime_ns == written
    assert resumed["images"] == 2
    assert resumed["intra_spread"] > 0
    assert {name: resumed[name] for name in resumed if name != "minutes"} == {name: whole[name] for name in whole if name != "minutes"}


@pytest.mark.slow
def test_times_of_panoramas_are_of_every_method(tmp_path: Path) -> None:
    budget = Budget(prompts=20, sampling_steps=1, scenes=64)
    figures = Reproduction(tmp_path, budget, torch.device("cpu")).run("times of panoramas")
    assert set(figures["seconds"]) == set(figures["ratios"]) == set(PANORAMAS)
    assert figures["ratios"]["non-tiled"] == 1
    assert figures["ratios"]["SyncDiffusion"] > figures["ratios"]["non-tiled"]


@pytest.mark.slow
def test_parts_run_and_a_stopped_reproduction_goes_on(tmp_path: Path) -> None:
    small = [
        "--steps",
        "2",
        "--batch",
        "2",
        "--prompts",
        "20",
        "--scenes",
        "64",
        "--work",
        str(tmp_path / "w"),
        "-o",
        str(tmp_path / "p.md"),
    ]
    parts = [
        "train jointnet 0",
        "train direct-zeros 0",
        "train ldm3d-style 0",
        "train controlnet 0",
        "train marigold-style 0",
        "conditions",
    ]
    assert main(["reproduce", *parts[:2], *small]) == 0
    first = json.loads((tmp_path / "p.json").read_text())["parts"]
    assert main(["reproduce", *parts[2:], *small]) == 0
    done = json.loads((tmp_path / "p.json").read_text())["parts"]
    assert list(done) == parts
    assert {name: done[name] for name in parts[:2]} == first
    assert done["train controlnet 0"]["conditioned"]["abs_rel"] > 0
    assert done["conditions"]["predicted"]["abs_rel"] > 0
    assert (tmp_path / "pictures" / "reproduction-progress.png").is_file()


@pytest.fixture(scope="module")
def public_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2."""
    folder = tmp_path_factory.mktemp("base")
    tiny_base("sd2").save_pretrained(folder)
    return folder


def test_a_public_base_is_planned_from_its_config(public_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "--base", str(public_base), "--size", "64", "--work", str(tmp_path / "work"), "--dry-run"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in printed.splitlines()}
    assert rows["train jointnet 0"][0] == "2,560,000"
    each = {name: float(rows[f"train {name} 0"][1]) for name in ("jointnet", "direct-copy")}
    assert each["jointnet"] >= each["direct-copy"] >= 0
    assert "all trainings" in rows
    assert not (tmp_path / "work").exists()


def test_a_public_base_without_data_is_refused(public_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--base", str(public_base), "--work", str(tmp_path / "work")]) == 2
    assert "without --data and --captions" in capsys.readouterr().err
    assert main(["reproduce", "--base", str(tmp_path), "--dry-run", "--work", str(tmp_path / "work")]) == 2
    assert "unet/config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_run_on_a_public_base_with_labels(public_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "scene", "--num", "6", "--size", "64", "-o", "data"]) == 0
    for file in Path("data").glob("*.depth.*"):
        file.unlink()
    Path("prompts.txt").write_text("\n".join(f"picture {i}" for i in range(20)))
    truth = Path("truth")
    truth.mkdir()
    picture = sorted(Path("data").glob("*.png"))[0]
    (truth / "a.png").write_bytes(picture.read_bytes())
    np.save(truth / "a.depth.npy", np.random.default_rng(0).uniform(1, 5, (64, 64)).astype(np.float32))
    command = ["reproduce", "base", "train jointnet 0", "conditions", "--base", str(public_base), "--data", "data", "--size", "64"]
    command += [
        "--label",
        "depth=tests.data.labelers.own:red",
        "--captions",
        "prompts.txt",
        "--reference",
        "data",
        "--truth",
        "folder:truth",
    ]
    assert main([*command, "--steps", "2", "--batch", "2", "--prompts", "20", "-o", "page.md"]) == 0
    parts = json.loads(Path("page.json").read_text())["parts"]
    assert parts["train jointnet 0"]["generated"]["FD-EffLite0"] > 0
    assert parts["conditions"]["predicted"]["rmse_disparity"] > 0
    assert "train direct-copy 0" in Path("page.md").read_text()
