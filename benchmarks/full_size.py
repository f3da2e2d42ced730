"""Stable Diffusion 2.1-base at its full size with random weights: peak memory of a picture or a panorama on this CPU.

python benchmarks/full_size.py image|panorama  ->  one line of JSON: case, seconds, peak_gib (of the whole process).
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from jointnet.demo.training.text import new_tokenizer
from jointnet.pipelines.joint_net import JointNetPipeline

DTYPE = torch.bfloat16
UNET = {
    "attention_head_dim": (5, 10, 20, 20),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "sample_size": 64,
    "use_linear_projection": True,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23, "projection_dim": 512}


def full_size_base() -> StableDiffusionPipeline:
    """Random weights, created in bfloat16."""
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPE)
    tokenizer = new_tokenizer()
    text = CLIPTextConfig(
        **TEXT,
        vocab_size=49408,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=77,
    )
    try:
        return StableDiffusionPipeline(
            vae=AutoencoderKL(**VAE).eval(),
            text_encoder=CLIPTextModel(text).eval(),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(**UNET).eval(),
            scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    finally:
        torch.set_default_dtype(torch.float32)


def run(case: str) -> dict[str, float | str]:
    """Make one picture (2 steps of 512 x 512) or one panorama (1 step of 512 x 2048), guided."""
    pipeline = JointNetPipeline.from_base(full_size_base())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    started = time.monotonic()
    if case == "image":
        output = pipeline("a red ball", num_inference_steps=2, generator=generator, output_type="pt")
    else:
        output = pipeline.panorama(
            "a red ball",
            height=512,
            width=2048,
            span_deg=360,
            num_inference_steps=1,
            tiled=pipeline.tiling(whole_share=1.0),  # the costliest tile is in the first 40 % of the steps
            generator=generator,
            output_type="pt",
        )
    assert output.depth.isfinite().all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"case": case, "seconds": round(time.monotonic() - started, 1), "peak_gib": round(peak, 2)}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1])))
