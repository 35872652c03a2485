"""Questions to train on: rows of a question file or plain questions, and the model's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..backbones.base import Backbone
from ..datasets.questions import Row, read_plain
from ..datasets.reading import read_questions
from ..errors import DataError
from ..generation.decode import Text, stream_tokens
from ..inputs.prepare import Media
from ..inputs.prompt import prepare_prompt
from ..media.folder import find_clips
from ..options import GenerateOptions, check_question
from .examples import Example

PLAIN = ".txt"
ANSWERS = "answers.jsonl"


def read_asked(path: Path, media: Path | None) -> tuple[list[Row], int]:
    """The questions of a file, with empty answers where it has none, and the number of rows left out.

    `media` is the folder of the clips, by default that of the file. A row that cannot be read is reported and left out;
    DataError where none can be read.
    """
    if path.suffix.lower() == PLAIN:
        return _plain(path, media or path.parent), 0
    bad: list[DataError] = []
    rows = []
    try:
        rows = read_questions(path, media=media, on_error=bad.append, answers=False)
    except DataError as error:
        if not bad:
            raise
        raise DataError(f"{error.message} {len(bad)} rows cannot be read: {bad[0].message}", bad[0].hint) from error
    for one in bad:
        print(f"left out: {one.message}", flush=True)
    return rows, len(bad)


def _plain(path: Path, folder: Path) -> list[Row]:
    """Every question for every clip of a folder."""
    questions = [check_question(line) for line in read_plain(path)]
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.", "Set media in [data] to the folder of the clips.")
    clips = find_clips(folder)
    return [Row(f"{clip.name}/{n}", clip, question, "") for clip in clips for n, question in enumerate(questions, 1)]


class OwnAnswers:
    """The full model's answers to questions without one: distillation needs no labels.

    They are kept in a file of the bank under `base`, a mark of the model that the run began with, so that a resumed run
    learns from the same answers.
    """

    def __init__(self, backbone: Backbone, folder: Path, tokens: int, base: str = "") -> None:
        self.backbone, self.path, self.tokens, self.base = backbone, folder / ANSWERS, tokens, base
        self.known: dict[tuple[str, str, int, str], str] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                clip, question, most, base, answer = json.loads(line)
            except ValueError:  # cut short when a run was killed, or of an older format
                continue
            self.known[clip, question, most, base] = answer

    def answer(self, clip: str, example: Example, question: str) -> str:
        """The model's answer with all tokens, decoded greedily; generated once."""
        key = (clip, question, self.tokens, self.base)
        if key not in self.known:
            self.known[key] = _generate(self.backbone, example, question, self.tokens)
            with self.path.open("a") as file:
                file.write(json.dumps([*key, self.known[key]]) + "\n")
        return self.known[key]


@torch.no_grad()
def _generate(backbone: Backbone, example: Example, question: str, tokens: int) -> str:
    inputs = prepare_prompt(Media(example.span), question, backbone.tokenizer, backbone.layout)
    text = Text(backbone)
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16):
        stream = backbone.embed(inputs, (example.features,))
        for token in stream_tokens(backbone, stream, GenerateOptions(max_new_tokens=tokens)):
            text.push(int(token[0]))
    return text.text.strip()
