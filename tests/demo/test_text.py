from __future__ import annotations

import subprocess
import sys

from jointnet.demo.training.text import new_tokenizer
from jointnet.demo.world.captions import known_words


def test_the_tokenizer_is_the_same_in_every_run() -> None:
    """Otherwise a resumed training would read other words than those it has learned."""
    code = "from jointnet.demo.training.text import new_tokenizer; print(sorted(new_tokenizer().get_vocab().items()))"
    here = str(sorted(new_tokenizer().get_vocab().items()))
    there = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_a_known_word_is_one_token_and_another_is_spelled_and_read_back() -> None:
    tokenizer = new_tokenizer()
    for word in known_words():
        ids = tokenizer(word).input_ids
        assert len(ids) == 3, word
        assert tokenizer.decode(ids[1:-1]).strip() == word
    other = tokenizer("zebra").input_ids
    assert len(other) > 3
    assert tokenizer.unk_token_id not in other[1:-1]
    assert tokenizer.decode(other[1:-1]).strip() == "zebra"
