"""Which prompt encoder a pipeline's components make, and LoRA's scale in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffusers.utils import scale_lora_layers, unscale_lora_layers
from transformers import T5EncoderModel

from jointnet.pipelines.text.clip import ClipEncoder
from jointnet.pipelines.text.clip_pair import ClipPairEncoder
from jointnet.pipelines.text.encoder import ConvertPrompts, PromptEncoder
from jointnet.pipelines.text.t5 import T5PromptEncoder

if TYPE_CHECKING:
    from jointnet.pipelines.joint_net import JointNetPipeline


def prompt_encoder(pipeline: JointNetPipeline) -> PromptEncoder | None:
    """The encoder of a pipeline's text encoders; None if it has none (prompts then come as embeddings)."""
    device = pipeline._execution_device
    convert: ConvertPrompts = pipeline.maybe_convert_prompt  # pyright: ignore[reportAssignmentType] - a list in, a list out
    if pipeline.text_encoder_2 is not None:
        pairs = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
        tokenizers, encoders = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        return ClipPairEncoder(tokenizers, encoders, device, convert)
    if pipeline.text_encoder is None:
        return None
    kind = T5PromptEncoder if isinstance(pipeline.text_encoder, T5EncoderModel) else ClipEncoder
    return kind(pipeline.tokenizer, pipeline.text_encoder, device, convert)


@contextmanager
def scaled_adapters(pipeline: JointNetPipeline, scale: float | None) -> Iterator[None]:
    """LoRA layers of the text encoders at a scale; None leaves them as they are."""
    encoders = [e for e in (pipeline.text_encoder, pipeline.text_encoder_2) if e is not None and scale is not None]
    for encoder in encoders:
        scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        for encoder in encoders:
            unscale_lora_layers(encoder, scale)
