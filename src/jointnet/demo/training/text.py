"""The demo base's tokenizer and text encoder: genuine CLIP classes, small, with the demo world's words as whole tokens."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jointnet.demo.world.captions import known_words

MAX_TOKENS = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
_WORD_END = "</w>"


def new_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in which every word of the demo world is one token and any other word is spelled out.

    It is the same every time, so that a resumed training reads the words it has learned.
    """
    merges = byte_pair_merges(known_words())
    tokens = [*_LETTERS, *(letter + _WORD_END for letter in _LETTERS), *map("".join, merges), _START, _END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        rules.write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
        return CLIPTokenizer(
            vocab=str(vocabulary),
            merges=str(rules),
            bos_token=_START,
            eos_token=_END,
            unk_token=_END,
            pad_token=_END,
            model_max_length=MAX_TOKENS,
        )


def byte_pair_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """The merges, in order, that make each word one token: always the most frequent pair, of equal ones the last by name.

    Note: the trainer of tokenizers numbers letters in the order of a randomly seeded hash table; its result differs from run to run.
    Source: Sennrich et al. (2016), Algorithm 1.
    """
    spelled = [(*word[:-1], word[-1] + _WORD_END) for word in sorted(words)]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in spelled for pair in pairwise(parts)):
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        spelled = [_merged(parts, best) for parts in spelled]
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    done: list[str] = []
    for part in parts:
        if done and (done[-1], part) == pair:
            done[-1] += part
        else:
            done.append(part)
    return tuple(done)


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
