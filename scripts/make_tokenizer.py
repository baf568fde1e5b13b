"""Train the embedded model's tokenizer on the procedural city's descriptions; its files are committed, since training is not repeatable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

VOCABULARY = 1024
LENGTH = 64
"""Longest prompt, in tokens."""


def main(out: str) -> None:
    """Write vocab.json, merges.txt and a CLIPTokenizer's configuration."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    from drivegen import world

    texts = [frame.description for i in range(400) for frame in world.build(1, i, 1).scene.frames]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=bytes_, end_of_word_suffix="</w>", min_frequency=3, show_progress=False,
        # Every character as a word of its own: any text can be written.
        special_tokens=[],
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    words = [*bytes_, *(c + "</w>" for c in bytes_), *("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, "<|startoftext|>", "<|endoftext|>"]))}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH).save_pretrained(out)
    made = CLIPTokenizer.from_pretrained(out)
    longest = max(len(made(text)["input_ids"]) for text in texts)
    print(f"{len(vocabulary)} words, longest description {longest} tokens, written to {Path(out)}; {made.tokenize(texts[0])}")


if __name__ == "__main__":
    main(sys.argv[1])
