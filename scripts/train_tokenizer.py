"""Train the small model's CLIP tokenizer on the procedural city's descriptions.

    python scripts/train_tokenizer.py configs/tokenizer

Byte-pair encoding (Sennrich 2016) with ties broken by the pair itself, because the `tokenizers` trainer gives other merges
on every run. Every byte is a word of its own, so that any text can be written.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from drivegen import world
from drivegen.testing.models import byte_alphabet

SCENES, MERGES, LENGTH = 400, 420, 48
EXTRA = "a driving scene image at boston seaport singapore onenorth queenstown hollandvillage sunny evening morning wet snow"


def words(texts: list[str]) -> Counter[tuple[str, ...]]:
    """Count the words of texts as CLIP splits them: lower case, punctuation apart, the last character marked."""
    import regex

    found: Counter[str] = Counter()
    for text in texts:
        found.update(regex.findall(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", text.lower()))
    return Counter({(*word[:-1], word[-1] + "</w>"): count for word, count in found.items()})


def train(counts: Counter[tuple[str, ...]], merges: int) -> list[tuple[str, str]]:
    """Give the merges, most frequent pair first."""
    out = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        out.append(best)
        counts = Counter({_merged(word, best): count for word, count in counts.items()})
    return out


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in word:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def main(folder: Path) -> None:
    """Write the tokenizer that transformers' CLIPTokenizer reads."""
    from transformers import CLIPTokenizer

    texts = [world.build(seed=1, index=i).scene.frames[0].description for i in range(SCENES)] + [EXTRA] * 3
    merges = train(words(texts), MERGES)
    alphabet = byte_alphabet()
    vocabulary = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    table = {word: i for i, word in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = CLIPTokenizer(vocab=table, merges=merges, model_max_length=LENGTH)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n", encoding="utf-8")
    longest = max(len(tokenizer(text)["input_ids"]) for text in texts)
    print(f"{len(table)} words in {folder}; the longest description has {longest} tokens of {LENGTH}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
