"""The demo base's tokenizer and text encoder: genuine CLIP classes, small, with the demo world's words as whole tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jointnet.demo.world.captions import known_words

MAX_TOKENS = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in which every word of the demo world is one token and any other word is spelled out."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=list(letters), show_progress=False
    )
    spelled = [letter for letter in letters for _ in range(2)]  # every letter also as a word's last one
    bpe.train_from_iterator([*sorted(known_words()), *spelled], trainer)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = (Path(p) for p in bpe.model.save(folder))
        tokens = json.loads(vocabulary.read_text())
        for special in (_START, _END):
            tokens[special] = len(tokens)
        vocabulary.write_text(json.dumps(tokens))
        return CLIPTokenizer(
            vocab=str(vocabulary),
            merges=str(merges),
            bos_token=_START,
            eos_token=_END,
            unk_token=_END,
            pad_token=_END,
            model_max_length=MAX_TOKENS,
        )


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (N, MAX_TOKENS) of captions."""
    return tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 128, with random weights: it is trained along with the U-Net."""
    torch.manual_seed(1)
    tokens = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokens[_START],
            eos_token_id=tokens[_END],
            pad_token_id=tokens[_END],
        )
    )
