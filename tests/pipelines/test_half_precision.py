"""Half precision: nothing overflows that diffusers keeps from overflowing."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor

from jointnet.codecs.latent import LatentCodec
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import BASES, tiny_base, tiny_unet, tiny_vae
from tests.pipelines.test_bases import perform


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "if-2" else name for name in BASES])
def test_every_base_makes_finite_maps(name: str, dtype: torch.dtype) -> None:
    pipeline = JointNetPipeline.from_base(tiny_base(name))
    pipeline.set_progress_bar_config(disable=True)
    joint = pipeline.joint_unet.add_masked_input()
    torch.manual_seed(5)
    with torch.no_grad():  # as if it were trained: at zero they could not overflow
        for parameter in [*joint.exchanges.parameters(), *joint.masked_inputs.parameters()]:
            parameter.normal_(0, 0.1)
    pipeline.to(dtype)
    for task in ("generate", "edit", "predict"):
        output = perform(pipeline, task)
        assert output.images.isfinite().all()
        assert output.depth.isfinite().all()  # not clipped: inf would show
    assert perform(pipeline, "generate", output_type="latent").images.isfinite().all()
    assert output.depth.dtype == torch.float32
    assert {p.dtype for p in pipeline.joint_unet.parameters()} == {dtype}


def large_attention(upcast: bool) -> JointUNet:
    """A network whose queries and keys are so large that their product leaves float16's range."""
    unet = tiny_unet("sd2-v" if upcast else "sd2")
    for module in unet.modules():
        if hasattr(module, "to_q"):
            module.to_q.weight.data *= 400
            module.to_k.weight.data *= 400
    return JointUNet.from_unet(unet)


@torch.no_grad()
def test_upcast_attention_is_honoured_in_every_branch() -> None:
    g = torch.Generator().manual_seed(0)
    arguments = (torch.randn(1, 2, 4, 16, 16, generator=g), 500, torch.randn(1, 7, 32, generator=g))
    half = tuple(a.half() if isinstance(a, torch.Tensor) else a for a in arguments)
    for upcast in (True, False):
        network = large_attention(upcast)
        network.set_attn_processor(AttnProcessor())  # it forms the product of queries and keys; the fused one never does
        assert network(*arguments).sample.isfinite().all()
        finite = network.half()(*half).sample.isfinite().flatten(2).all(-1)  # (B, M)
        assert finite.all().item() is upcast


def overflowing_autoencoder(force_upcast: bool) -> AutoencoderKL:
    vae = tiny_vae()
    vae.register_to_config(force_upcast=force_upcast)
    vae.decoder.conv_in.weight.data *= 3e4
    return vae


@torch.no_grad()
def test_an_autoencoder_is_upcast_where_its_config_says_so_and_is_half_again_afterwards() -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = LatentCodec(overflowing_autoencoder(True)).decode("depth", latents)
    for force_upcast in (True, False):
        vae = overflowing_autoencoder(force_upcast).half()
        weights = {k: v.clone() for k, v in vae.state_dict().items()}
        decoded = LatentCodec(vae).decode("depth", latents.half())
        assert decoded.isfinite().all().item() is force_upcast
        if force_upcast:
            assert torch.allclose(decoded, expected, atol=0.02)
        assert all(torch.equal(v, weights[k]) for k, v in vae.state_dict().items())


def test_t5_keeps_its_output_projections_in_float32(tmp_path) -> None:
    tiny_base("if-1").save_pretrained(tmp_path)
    pipeline = JointNetPipeline.from_base(tmp_path, torch_dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "joint")
    for opened in (pipeline, JointNetPipeline.from_pretrained(tmp_path / "joint", torch_dtype=torch.float16)):
        dtypes = {name.split(".")[-2]: p.dtype for name, p in opened.text_encoder.named_parameters()}
        assert dtypes["wo"] == torch.float32
        assert dtypes["q"] == torch.float16
    feed_forward = pipeline.text_encoder.encoder.block[0].layer[1].DenseReluDense
    feed_forward.wi_1.weight.data *= 1e3
    feed_forward.wo.weight.data *= 1e3
    kept = pipeline.encode_prompt("a red ball")[0].float()
    assert perform(pipeline, "generate").depth.isfinite().all()
    all_half = torch.nn.Module.half(copy.deepcopy(pipeline.text_encoder))  # transformers clips what overflows there
    exact = torch.nn.Module.float(copy.deepcopy(pipeline.text_encoder))
    embeds = {}
    for name, encoder in {"half": all_half, "exact": exact}.items():
        pipeline.register_modules(text_encoder=encoder)
        embeds[name] = pipeline.encode_prompt("a red ball")[0].float()
    errors = {
        name: float((value - embeds["exact"]).norm() / embeds["exact"].norm()) for name, value in (("kept", kept), ("half", embeds["half"]))
    }
    assert errors["kept"] < 0.01
    assert errors["half"] > 0.1
