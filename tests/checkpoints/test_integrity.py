"""A damaged model folder is refused before it is opened, in one line that names the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import jointnet
from jointnet.checkpoints.integrity import check_whole, is_whole
from jointnet.cli.main import main
from jointnet.demo.bundled import BUNDLED, bundled_folder
from jointnet.errors import ModelFolderError
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import UNETS, tiny_base
from tests.checkpoints.test_release import SAMPLES
from tests.conftest import tiny_pipeline

Damage = Callable[[Path], object]
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
VAE, TEXT = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
NETWORK = "joint_unet/diffusion_pytorch_model.safetensors"


def removed(name: str) -> Damage:
    return lambda model: shutil.rmtree(model / name) if (model / name).is_dir() else (model / name).unlink()


def written(name: str, content: str | bytes) -> Damage:
    return lambda model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, length: int | None = None) -> Damage:
    def damage(model: Path) -> None:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content[: len(content) // 2 if length is None else length])

    return damage


def stated(name: str, **settings: Any) -> Damage:
    """Change settings of a JSON file; None removes one."""

    def damage(model: Path) -> None:
        content = {**json.loads((model / name).read_text()), **settings}
        (model / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return damage


def copied(source: str, target: str) -> Damage:
    return lambda model: shutil.copy(model / source, model / target)


def only_underscored(name: str) -> Damage:
    def damage(model: Path) -> None:
        content = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({key: value for key, value in content.items() if key.startswith("_")}))

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    **{f"no {part}": (removed(part), f"got no folder {part}, which") for part in ("vae", "tokenizer", "text_encoder", "scheduler")},
    "no network": (removed("joint_unet"), "got no folder joint_unet, which"),
    "no config": (removed("vae/config.json"), "got no vae/config.json"),
    "empty config": (written("vae/config.json", "{}"), "vae/config.json states no settings"),
    "list": (written("joint_unet/config.json", "[]"), "joint_unet/config.json is damaged: it holds no named values"),
    "text": (written("text_encoder/config.json", "hello"), "text_encoder/config.json is damaged: Expecting value"),
    "deep": (written("vae/config.json", "[" * 100_000), "vae/config.json is damaged"),
    "other network": (
        copied("joint_unet/config.json", "vae/config.json"),
        "vae/config.json is of a JointUNet, model_index.json lists a Auto",
    ),
    "text encoder as vae": (copied("text_encoder/config.json", "vae/config.json"), "vae/config.json is of a clip_text_model"),
    "scheduler {}": (written(SCHEDULER, "{}"), f"{SCHEDULER} states no settings"),
    "scheduler's class only": (only_underscored(SCHEDULER), f"{SCHEDULER} states no settings"),
    "no betas": (stated(SCHEDULER, beta_schedule=None), f"{SCHEDULER} states no beta_schedule"),
    "no prediction": (stated(SCHEDULER, prediction_type=None), f"{SCHEDULER} states no prediction_type"),
    "unknown prediction": (stated(SCHEDULER, prediction_type="x"), f"{SCHEDULER} states prediction_type 'x', expected one of"),
    "beta": (stated(SCHEDULER, beta_start=-1), f"{SCHEDULER} states beta_start -1, expected a positive number"),
    "no scheduler": (copied("vae/config.json", SCHEDULER), f"{SCHEDULER} is of a AutoencoderKL, expected a scheduler"),
    "no tokenizer config": (removed(TOKENIZER), f"got no {TOKENIZER}"),
    "no length": (stated(TOKENIZER, model_max_length=None), f"{TOKENIZER} states no model_max_length"),
    "no vocabulary": (removed("tokenizer/tokenizer.json"), "got no vocabulary in tokenizer, expected tokenizer.json or"),
    "half vocabulary": (cut("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json is damaged"),
    "no weights": (removed(VAE), "got no weights of vae"),
    "half weights": (cut(VAE), f"{VAE} is damaged: it has"),
    "cut header": (cut(TEXT, 20), f"{TEXT} is damaged: it has 20 bytes, its header alone would have"),
    "no bytes": (written(NETWORK, b""), f"{NETWORK} is damaged: it has 0 bytes and no header"),
    "pointer": (written(NETWORK, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "run git lfs pull"),
    "no names": (written(NETWORK, (2).to_bytes(8, "little") + b"[]"), f"{NETWORK} is damaged"),
    "no joint network": (stated("model_index.json", joint_unet=[None, None]), "model_index.json lists no joint_unet"),
    "no class": (stated("model_index.json", vae="x"), "model_index.json lists vae as 'x', expected [library, class]"),
    "no tokenizer listed": (stated("model_index.json", tokenizer=[None, None]), "lists text_encoder and no tokenizer"),
    "no modalities": (stated("joint_unet/config.json", modalities=None), "joint_unet/config.json states no modalities"),
    "fewer modalities": (stated("joint_unet/config.json", modalities=["rgb"]), "joint_unet has weights of depth, rgb, its config.json"),
    "numbers": (stated("joint_unet/config.json", modalities=["rgb", 3]), "states modalities ['rgb', 3], expected different names"),
    "unknown branch": (stated("joint_unet/config.json", branch="wide"), "states branch 'wide', expected one of full, lora:RANK"),
    "no branch": (stated("joint_unet/config.json", branch=[16]), "states branch [16], expected one of full, lora:RANK"),
    "no U-Net": (stated("joint_unet/config.json", unet_config=[]), "states unet_config [], expected the settings of a U-Net"),
    **{
        f"{name} near {value}": (stated(name, depth_near_m=value), f"{name} states depth_near_m {value!r}, expected a positive number")
        for name in ("model_index.json", "joint_unet/config.json")
        for value in (-1, 0, float("nan"), float("inf"), "text", True, [1])
    },
    "steps": (stated("model_index.json", default_steps=0), "model_index.json states default_steps 0"),
    "guidance": (stated("model_index.json", default_guidance="x"), "model_index.json states default_guidance 'x'"),
    "zeros": (stated("model_index.json", force_zeros_for_empty_prompt=3), "states force_zeros_for_empty_prompt 3, expected true"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_model_is_refused_and_named(kind: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    assert is_whole(model)
    damage, message = DAMAGES[kind]
    damage(model)
    capsys.readouterr()
    assert main(["info", str(model)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"jointnet info: error: cannot load the model in {str(model)!r}: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not is_whole(model)
    with pytest.raises(ModelFolderError):
        JointNetPipeline.from_pretrained(model)


@pytest.mark.parametrize("kind", ["scheduler's class only", "no vocabulary", "list", "half weights", "model_index.json near nan"])
def test_every_command_refuses_a_damaged_model_in_the_same_words(
    kind: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, image = tmp_path / "model", tmp_path / "out", tmp_path / "a.png"
    shutil.copytree(model_folder, model)
    damage, message = DAMAGES[kind]
    damage(model)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    np.save(tmp_path / "d.npy", np.ones((32, 32), np.float32))
    commands = {
        "generate": ["a ball", "--model", str(model)],
        "predict": [str(image), "--model", str(model)],
        "condition": [str(tmp_path / "d.npy"), "a ball", "--model", str(model)],
        "refine": ["--image", str(image), "--depth", str(tmp_path / "d.npy"), "--model", str(model)],
        "panorama": ["a ball", "--model", str(model)],
        "train": ["stage2", "--from", str(model), "--data", str(tmp_path)],
        "convert": ["to-release", str(model)],
    }
    capsys.readouterr()
    for name, words in commands.items():
        assert main([name, *words, "-o", str(out)]) == 2, name
        error = capsys.readouterr().err.strip()
        assert message in error, name
        assert len(error.splitlines()) == 1, error
        assert not out.exists(), name


@pytest.mark.parametrize("kind", ["no vae", "list", "scheduler {}", "no length", "half weights", "cut header", "text encoder as vae"])
def test_a_damaged_base_is_refused_in_the_same_words(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    shutil.copytree(SAMPLES / "finetune" / "base", base)
    damage, message = DAMAGES[kind]
    if kind == "list":
        damage, message = written("unet/config.json", "[]"), "unet/config.json is damaged: it holds no named values"
    damage(base)
    (tmp_path / "data").mkdir()
    release = ["convert", "release", str(SAMPLES / "finetune" / "release"), "--base", str(base), "-o", str(tmp_path / "out")]
    train = ["train", "stage1", "--from", str(base), "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]
    for command in (train, *([] if kind == "list" else [release])):  # a release has a U-Net of its own
        assert main(command) == 2
        error = capsys.readouterr().err.strip()
        assert f"cannot open the base {str(base)!r}: " in error
        assert message in error
        assert not (tmp_path / "out").exists()


BASE_DAMAGES: dict[str, tuple[Damage, str]] = {
    **{f"no {part}": (removed(part), f"got no folder {part}, which") for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")},
    **{f"no config of {part}": (removed(f"{part}/config.json"), f"got no {part}/config.json") for part in ("unet", "vae", "text_encoder")},
    **{
        f"{part} {content}": (written(f"{part}/config.json", content), f"{part}/config.json {reason}")
        for part in ("unet", "vae", "text_encoder")
        for content, reason in (("[]", "is damaged: it holds no named values"), ("{}", "states no settings"), ("{", "is damaged: "))
    },
    **{
        f"cut {name}": (cut(name), f"{name} is damaged: it has")
        for name in ("unet/diffusion_pytorch_model.safetensors", VAE, "text_encoder/model.safetensors")
    },
}


@pytest.mark.parametrize("kind", BASE_DAMAGES)
def test_training_names_the_damaged_component_of_a_base(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    shutil.copytree(SAMPLES / "finetune" / "base", base)
    damage, message = BASE_DAMAGES[kind]
    damage(base)
    (tmp_path / "data").mkdir()
    assert main(["train", "stage1", "--from", str(base), "--data", str(tmp_path / "data"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"jointnet train: error: cannot open the base {str(base)!r}: {message}")
    assert error.endswith("; save or fetch it again")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def resized(path: Path) -> str:
    """Give the largest weight of a file another shape; return its name."""
    weights = load_file(path)
    name = max(weights, key=lambda key: weights[key].numel())
    weights[name] = torch.zeros([size + 1 for size in weights[name].shape])
    save_file(weights, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("part", [VAE, TEXT, NETWORK])
def test_a_weight_of_another_shape_is_named(part: str, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    name = resized(tmp_path / "model" / part)
    with pytest.raises(ModelFolderError, match=f"{part.split('/')[0]} has a weight .*{name.split('.')[-2]}.* its config.json asks for"):
        jointnet.load(tmp_path / "model")


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model", "text_encoder/model", "unet/diffusion_pytorch_model"])
def test_a_base_that_lacks_a_weight_is_refused(part: str, tmp_path: Path) -> None:
    path = tmp_path / "base" / f"{part}.safetensors"
    shutil.copytree(SAMPLES / "finetune" / "base", tmp_path / "base")
    weights = load_file(path)
    del weights[next(name for name in weights if name.endswith("weight"))]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match="got no weight"):
        JointNetPipeline.from_base(tmp_path / "base")


@pytest.mark.parametrize("form", ["plain", "pickle", "shards", "fp16", "fp16 shards", "fp16 beside a cut one"])
def test_every_form_of_weights_is_whole(form: str, tmp_path: Path) -> None:
    pipeline, variant = tiny_pipeline(), "fp16" if "fp16" in form else None
    size = {"max_shard_size": "300KB"} if "shards" in form else {}
    pipeline.save_pretrained(tmp_path, safe_serialization=form != "pickle", variant=variant, **size)
    if "cut" in form:  # that diffusers does not open
        for name in ("joint_unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"):
            (tmp_path / f"{name}.other.safetensors").write_bytes(b"x")
    if "shards" in form:
        shards = sorted((tmp_path / "joint_unet").glob("*.safetensors"))
        assert len(shards) > 1
    check_whole(tmp_path, variant=variant if "cut" in form else None)
    if "shards" in form:
        shards[-1].unlink()
        with pytest.raises(ModelFolderError, match=f"got no joint_unet/{shards[-1].name}, which .*index.* lists"):
            check_whole(tmp_path)


def test_a_cut_pickle_is_refused(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path, safe_serialization=False)
    cut("vae/diffusion_pytorch_model.bin")(tmp_path)
    with pytest.raises(ModelFolderError, match=r"vae/diffusion_pytorch_model\.bin is damaged: its end is missing"):
        check_whole(tmp_path)


@pytest.mark.parametrize("name", UNETS)
def test_bases_and_their_joint_models_are_whole(name: str, tmp_path: Path) -> None:
    base = tiny_base(name)
    base.save_pretrained(tmp_path / "base")
    check_whole(tmp_path / "base")
    JointNetPipeline.from_base(base).save_pretrained(tmp_path / "joint")
    check_whole(tmp_path / "joint")


def test_the_bundled_models_are_whole() -> None:
    for name in BUNDLED:
        check_whole(bundled_folder(name))


def test_an_old_base_that_states_no_prediction_type_predicts_noise(tmp_path: Path) -> None:
    """As the published Stable Diffusion 1.5, whose files are from before the setting."""
    shutil.copytree(SAMPLES / "finetune" / "base", tmp_path / "base")
    stated(SCHEDULER, prediction_type=None)(tmp_path / "base")
    assert JointNetPipeline.from_base(tmp_path / "base").scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "IPNDMScheduler", "UniPCMultistepScheduler"])
def test_schedulers_without_betas_are_whole(name: str, tmp_path: Path) -> None:
    import diffusers

    pipeline = tiny_pipeline()
    pipeline.scheduler = getattr(diffusers, name)()
    pipeline.save_pretrained(tmp_path)
    check_whole(tmp_path)


def test_components_that_are_passed_need_no_files(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "vae")
    opened = JointNetPipeline.from_pretrained(tmp_path / "model", vae=tiny_pipeline().vae)
    assert opened.vae is not None


def test_a_release_without_settings_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "finetune" / "release", tmp_path / "release")
    written("unet/config.json", '{"_class_name": "JointNetModel"}')(tmp_path / "release")
    with pytest.raises(ModelFolderError, match="without the settings of a U-Net"):
        JointNetPipeline.from_release(tmp_path / "release", SAMPLES / "finetune" / "base")
