"""The full model's own answers to questions that came without: what a sieve is distilled from needs no labels.

They are kept in a file of the bank, under the model that the run began with: a run that goes on learns from the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..backbones.base import Backbone
from ..generation.decode import Text, stream_tokens
from ..inputs.prepare import Media, prepare_prompt
from ..options import GenerateOptions
from .bank import Example

FILE = "answers.jsonl"


class OwnAnswers:
    """A file of answers, each by the clip, the question and `base`, a mark of the model; it grows as more is asked."""

    def __init__(self, backbone: Backbone, folder: Path, tokens: int, base: str = "") -> None:
        self.backbone, self.path, self.tokens, self.base = backbone, folder / FILE, tokens, base
        self.told: dict[tuple[str, str, int, str], str] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                clip, question, most, base, answer = json.loads(line)
            except ValueError:  # cut short when a run was killed, or of an older kind
                continue
            self.told[clip, question, most, base] = answer

    def answer(self, clip: str, one: Example, question: str) -> str:
        """What the model says of it, from all tokens, greedily; asked once."""
        key = (clip, question, self.tokens, self.base)
        if key not in self.told:
            self.told[key] = _ask(self.backbone, one, question, self.tokens)
            with self.path.open("a") as file:
                file.write(json.dumps([*key, self.told[key]]) + "\n")
        return self.told[key]


@torch.no_grad()
def _ask(backbone: Backbone, one: Example, question: str, tokens: int) -> str:
    inputs = prepare_prompt(Media(one.span), question, backbone.tokenizer, backbone.layout)
    said = Text(backbone)
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        stream = backbone.embed(inputs, (one.features,))
        for token in stream_tokens(backbone, stream, GenerateOptions(max_new_tokens=tokens)):
            said.push(int(token[0]))
    return said.text.strip()
