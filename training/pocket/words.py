"""A CLIP tokenizer and a small CLIP text encoder for the words of the captions.

Byte pair encoding, applied to the captions' words until nothing is left to merge, makes each word one token. All single bytes
are tokens too, so that any prompt can be tokenised, although only the captions' words are learned. The files are CLIP's:
vocab.json, merges.txt.

Sennrich, Haddow & Birch, Neural Machine Translation of Rare Words with Subword Units, ACL 2016; Radford et al.,
Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dreamsim_guidance.data.scenes.captions import vocabulary

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["WORD_LENGTH", "byte_pairs", "text_encoder", "tokenizer", "write_tokenizer"]

WORD_LENGTH = 40
"""Tokens of a prompt, including its begin and end; the pipeline truncates longer prompts and says so."""

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def byte_pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """The merges, in order, that make each of the words one token: the most frequent pair first, ties in alphabetic order."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in spelled for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(parts, best) for parts in spelled]
    return merges


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json in the form that every version of transformers reads."""
    merges = byte_pairs([*vocabulary(), ","])
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), _BEGIN, _END]
    table = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": WORD_LENGTH,
        "bos_token": _BEGIN,
        "eos_token": _END,
        "pad_token": _END,
        "unk_token": _END,
        "errors": "replace",
        "add_prefix_space": False,
        "do_lower_case": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def tokenizer() -> CLIPTokenizer:
    """The tokenizer of the captions' words."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def text_encoder(words: CLIPTokenizer, width: int, depth: int, heads: int) -> CLIPTextModel:
    """A CLIP text encoder with random weights for the tokens of `words`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=WORD_LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _byte_letters() -> list[str]:
    """One printable letter for each byte, in CLIP's order: first the printable bytes, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]
