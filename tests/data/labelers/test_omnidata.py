"""Omnidata's checkpoint, beside the original network on timm."""

from __future__ import annotations

import os
import pickle
import shutil
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jointnet.data.labelers.network import NetworkLabeler
from jointnet.data.labelers.omnidata import omnidata, published_config
from jointnet.data.labelers.omnidata_layout import convert, read_checkpoint
from jointnet.data.labelers.weights import Published
from jointnet.errors import ModelFolderError
from jointnet.modalities.normal import NORMAL
from tests.data.labelers.networks import SIZE, dpt_config, make_lively, pictures

timm = pytest.importorskip("timm")

from tests.data.labelers.original_dpt import OriginalDPT  # noqa: E402 - it imports timm


@pytest.fixture(scope="module")
def original() -> OriginalDPT:
    network = OriginalDPT()
    make_lively(network, network.scratch.output_conv[4], 0.5, SIZE)
    return network.eval()


@pytest.fixture
def checkpoint(original: OriginalDPT, tmp_path: Path) -> Path:
    """As Lightning writes it: settings, callbacks and names with a prefix."""
    path = tmp_path / "omnidata_dpt_normal_v2.ckpt"
    weights = OrderedDict((f"model.{name}", value) for name, value in original.state_dict().items())
    torch.save(
        {
            "epoch": 3,
            "pytorch-lightning_version": "1.3.8",
            "state_dict": weights,
            "callbacks": {Callback: {"best_model_path": "x.ckpt"}},
            "hyper_parameters": SettingsDict(lr=1e-5, options=Namespace(task="normal")),
        },
        path,
    )
    return path


class Callback:
    """Stands for one of Lightning's, whose class such a checkpoint names."""


class SettingsDict(dict[str, Any]):
    """Stands for Lightning's AttributeDict."""


def test_the_converted_network_is_the_original(original: OriginalDPT) -> None:
    rgb = pictures(2)
    with torch.no_grad():
        expected = original(rgb)
        assert expected.std((0, 2, 3)).min() > 0.05
        torch.testing.assert_close(convert(dict(original.state_dict()), dpt_config())(rgb).predicted_depth, expected, atol=1e-6, rtol=0)


def test_every_weight_of_the_published_network_has_its_place() -> None:
    """Names and shapes of ``vit_base_r50_s16_384`` and MiDaS's decoder, without memory for their values."""
    with torch.device("meta"):
        theirs = {f"pretrained.model.{k}": v for k, v in timm.create_model("vit_base_r50_s16_384").state_dict().items()}
        sizes = (256, 512, 768, 768)
        for i, channels in enumerate(sizes, 1):
            theirs[f"scratch.layer{i}_rn.weight"] = torch.empty(256, channels, 3, 3)
            theirs |= layer(f"scratch.refinenet{i}.out_conv", 256, 256, 1)
            for unit in (f"scratch.refinenet{i}.resConfUnit{j}.conv{k}" for j in (1, 2) for k in (1, 2)):
                theirs |= layer(unit, 256, 256, 3)
        for i in (3, 4):
            theirs[f"pretrained.act_postprocess{i}.0.project.0.weight"] = torch.empty(768, 1536)
            theirs[f"pretrained.act_postprocess{i}.0.project.0.bias"] = torch.empty(768)
            theirs |= layer(f"pretrained.act_postprocess{i}.3", 768, 768, 1)
        theirs |= layer("pretrained.act_postprocess4.4", 768, 768, 3)
        for i, (out, into, kernel) in {0: (128, 256, 3), 2: (32, 128, 3), 4: (3, 32, 1)}.items():
            theirs |= layer(f"scratch.output_conv.{i}", out, into, kernel)
        network = convert(theirs, published_config())
    assert sum(value.numel() for value in network.parameters()) > 120e6


def layer(name: str, out: int, into: int, kernel: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.empty(out, into, kernel, kernel), f"{name}.bias": torch.empty(out)}


def test_a_checkpoint_of_lightning_is_read_without_running_what_it_names(checkpoint: Path, original: OriginalDPT) -> None:
    weights = read_checkpoint(checkpoint)
    assert weights.keys() == original.state_dict().keys()
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in weights.items())


def test_weights_alone_are_read_too(original: OriginalDPT, tmp_path: Path) -> None:
    torch.save(original.state_dict(), tmp_path / "omnidata_normal_dpt_hybrid.pth")
    assert read_checkpoint(tmp_path / "omnidata_normal_dpt_hybrid.pth").keys() == original.state_dict().keys()


class Bomb:
    """Code that a pickle can carry: a call."""

    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path, mark, source = tmp_path / "bad.ckpt", tmp_path / "it ran", tmp_path / "source"
    source.touch()
    content = {"state_dict": {"model.x": torch.zeros(1)}, "more": Bomb(shutil.copy, str(source), str(mark))}
    torch.save(content, path)
    assert read_checkpoint(path).keys() == {"x"}  # the call is left aside
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelFolderError):
        read_checkpoint(path)
    torch.save({**content, "more": Bomb(os.mkdir, str(mark))}, path)
    with pytest.raises(ModelFolderError, match="it holds code"):
        read_checkpoint(path)
    assert not mark.exists()


def test_normals_have_our_axes_and_length_1(checkpoint: Path, original: OriginalDPT) -> None:
    labeler = omnidata("normal", checkpoint, dpt_config())
    rgb = pictures(2)
    with torch.no_grad():
        theirs = original(rgb).clamp(0, 1) * 2 - 1
    x, y, z = torch.nn.functional.normalize(theirs, dim=1).unbind(1)
    ours = labeler(rgb)
    has_direction = theirs.norm(dim=1) > 0.31
    assert has_direction.float().mean() > 0.5
    torch.testing.assert_close(ours[:, 0][has_direction], x[has_direction], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, 1][has_direction], -y[has_direction], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, 2][has_direction], -z[has_direction], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ((0.5031, 0.0154, 0.4407), (0.0, 1.0, 0.1)),  # a floor: up
        ((0.5091, 0.9906, 0.5476), (0.0, -1.0, -0.1)),  # a ceiling: down
        ((0.2412, 0.5361, 0.0938), (-0.52, -0.07, 0.81)),  # a wall that faces the camera, from the right: left and to the camera
    ],
)
def test_what_was_read_off_the_published_weights_is_where_it_belongs(
    checkpoint: Path, written: tuple[float, ...], meant: tuple[float, ...]
) -> None:
    """Numbers of github.com/maturk/dn-splatter/issues/9, as the network writes them."""
    labeler = omnidata("normal", checkpoint, dpt_config())
    last: Any = labeler.network.head.head[4]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(written))
    maps = labeler(pictures(1))
    direction = torch.nn.functional.normalize(torch.tensor(meant), dim=0)
    assert (maps * direction[:, None, None]).sum(1).min() > 0.99


def test_maps_have_the_pictures_size_and_pass_as_normals(checkpoint: Path) -> None:
    labeler = omnidata("normal", checkpoint, dpt_config())
    maps = labeler(pictures(3, 40, 96))
    assert maps.shape == (3, 3, 40, 96)
    NORMAL.encode(maps)
    alone = torch.cat([labeler(picture[None]) for picture in pictures(3, 40, 96)])
    torch.testing.assert_close(maps, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["scratch.output_conv.4.weight", "pretrained.model.blocks.11.mlp.fc2.bias"])
def test_a_checkpoint_that_lacks_a_weight_is_refused(original: OriginalDPT, tmp_path: Path, name: str) -> None:
    weights = dict(original.state_dict())
    del weights[name]
    torch.save(weights, tmp_path / "x.ckpt")
    with pytest.raises(ModelFolderError, match=r"x\.ckpt.*shape none"):
        omnidata("normal", tmp_path / "x.ckpt", dpt_config())


def test_a_checkpoint_of_depth_is_refused(original: OriginalDPT, tmp_path: Path) -> None:
    weights = dict(original.state_dict())
    weights["scratch.output_conv.4.weight"] = weights["scratch.output_conv.4.weight"][:1]
    torch.save(weights, tmp_path / "omnidata_dpt_depth_v2.ckpt")
    with pytest.raises(ModelFolderError, match="no DPT-hybrid for normals"):
        omnidata("normal", tmp_path / "omnidata_dpt_depth_v2.ckpt", dpt_config())


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(ModelFolderError) as raised:
            read_checkpoint(tmp_path / "x.ckpt")
        assert "\n" not in str(raised.value)


def test_a_folder_stands_for_the_file_in_it(checkpoint: Path) -> None:
    published = Published(repository="owner/name", file="x.pth")
    assert published.find(str(checkpoint.parent), "omnidata", "normal") == checkpoint.parent / "x.pth"
    assert published.find(str(checkpoint), "omnidata", "normal") == checkpoint
    assert isinstance(omnidata("normal", checkpoint, dpt_config()), NetworkLabeler)
