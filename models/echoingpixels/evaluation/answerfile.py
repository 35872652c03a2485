"""Answers of an evaluation as JSON lines: each is written when it is made, and all are read when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoints.loading import weights_of
from ..datasets.questions import Row
from ..errors import DataError
from ..options import GenerateOptions, LoadOptions, MediaOptions, reuse_name
from ..reducers.setting import Setting
from ..report import TOKEN_KINDS, TokenCount, Tokens
from ..storage.rowfile import RowFile
from .evaluate import Outcome, marked

Key = tuple[str, str, str, float | None, float | None]  # id, name of the media file, question, start, end
# Load options that change no answer, or are noted as weights.
OMITTED = ("device", "sieve", "cache", "max_pixels", "encoder_keep", "keep")


def made_with(model: str, load: LoadOptions, media: MediaOptions, generate: GenerateOptions) -> dict[str, Any]:
    """Everything that answers depend on, except question and setting, as JSON values. ModelError as from `load`."""
    weights = weights_of(model, load)
    options = {name: value for name, value in vars(load).items() if name not in OMITTED}
    values = {
        **options,
        "model": model,
        "weights": weights.model,
        "sieve": weights.sieve,
        "resolution": str(weights.resolution),
        "reuse": reuse_name(weights.reuse),
        "fps": media.fps,
        "max_frames": media.max_frames,
        "audio": media.audio,
        "audio_track": media.audio_track,
        "max_new_tokens": generate.max_new_tokens,
        **({"encoder_keep": str(weights.encoder_keep)} if weights.encoder_keep else {}),  # older files have none
        **({"temperature": generate.temperature} if generate.temperature else {}),  # older files have none
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


class AnswerFile(RowFile):
    """The answers to `rows` under the `chosen` settings; `known` returns those that the file already contained.

    Answers under other settings or to other questions are left unchanged.
    """

    program, what, start_again = "ep evaluate", "evaluation answer", "--force"

    def __init__(
        self,
        path: Path,
        rows: Sequence[Row],
        chosen: Sequence[Setting],
        made: Mapping[str, Any],
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """As RowFile; failed answers to `rows` under `chosen` are removed. DataError where the answers in the file were
        made with options other than `made`, or have the id of another question."""
        self._made, self._chosen = made, set(chosen)
        self._asked = {_key(row) for row in rows}
        self._ids = {row.id for row in rows}
        self._found: dict[tuple[Key, Setting], dict[str, Any]] = {}
        super().__init__(path, resume, force)

    def __len__(self) -> int:
        return len(self._found)

    def write(self, outcome: Outcome) -> None:
        """Append an outcome. DataError where writing fails."""
        row = outcome.row
        self.append(
            [
                {
                    "id": row.id,
                    "media": str(row.media),
                    "start": row.start,
                    "end": row.end,
                    "question": row.question,
                    "kind": row.kind or None,
                    "regime": row.regime or None,
                    **outcome.setting.as_dict(),
                    "answer": outcome.answer,
                    "expected": row.answer,
                    "right": outcome.right,
                    "unparsed": outcome.unparsed,
                    "error": outcome.error,
                    "tokens": None if outcome.tokens is None else asdict(outcome.tokens),
                    "made_with": self._made,
                }
            ]
        )

    def known(self, row: Row, setting: Setting) -> Outcome | None:
        """The outcome in the file, scored by the expected answer of `row`; None without one."""
        found = self._found.get((_key(row), setting))
        return None if found is None else marked(row, setting, found["answer"], _tokens(found))

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError where a row is not an answer."""
        _setting(row)
        _key_of(row)
        if not isinstance(row["made_with"], dict):
            raise TypeError
        if not row["error"]:
            _tokens(row)
            if not isinstance(row["answer"], str):
                raise TypeError

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a row remains in the file when it is resumed."""
        return not (row["error"] and _key_of(row) in self._asked and _setting(row) in self._chosen)

    def found(self, row: dict[str, Any]) -> None:
        """Note a row that remains. DataError where it cannot belong to the same evaluation."""
        self._compare(row["made_with"])
        if _key_of(row) in self._asked:
            if _setting(row) in self._chosen:
                self._found[_key_of(row), _setting(row)] = row
        elif row["id"] in self._ids:
            hint = "Evaluate the same questions, overwrite it with --force, or choose another --out."
            raise DataError(f"{self.path} contains an answer to another question with id {row['id']!r}.", hint)

    def _compare(self, made: Mapping[str, Any]) -> None:
        """DataError that names the first option that differs. The model's name may differ if its weights are equal."""
        for name in (*self._made, *made):
            old, new = made.get(name), self._made.get(name)
            if name != "model" and old != new:
                hint = "Give the same options, overwrite it with --force, or choose another --out."
                raise DataError(f"{self.path} was made with {name} {old}; now it is {new}.", hint)


def _key(row: Row) -> Key:
    return row.id, row.media.name, row.question, row.start, row.end


def _key_of(answer: dict[str, Any]) -> Key:
    return str(answer["id"]), Path(answer["media"]).name, str(answer["question"]), answer["start"], answer["end"]


def _setting(answer: dict[str, Any]) -> Setting:
    return Setting(str(answer["reducer"]), float(answer["keep"]))


def _tokens(answer: dict[str, Any]) -> Tokens:
    return Tokens(**{kind: TokenCount(**answer["tokens"][kind]) for kind in TOKEN_KINDS})
