"""The answers of an evaluation as JSONL: written as they come, and read again when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoints.loading import weights_of
from ..datasets.questions import Row
from ..errors import DataError
from ..options import GenerateOptions, LoadOptions, MediaOptions, read_keep
from ..reducers.setting import Setting
from ..report import TOKEN_KINDS, Tokens
from ..storage.rowfile import RowFile
from .evaluate import Outcome, marked

Key = tuple[str, str, str, float | None, float | None]  # id, name of the media file, question, start, end
ELSEWHERE = ("device", "sieve", "cache", "max_pixels")  # load options that change no answer, or stand as weights


def made_with(model: str, load: LoadOptions, media: MediaOptions, generate: GenerateOptions) -> dict[str, Any]:
    """All that answers depend on beside the question and the setting, as plain values. ModelError as from `load`."""
    weights = weights_of(model, load)
    options = {name: value for name, value in vars(load).items() if name not in ELSEWHERE}
    made = {
        **options,
        "model": model,
        "weights": weights.model,
        "sieve": weights.sieve,
        "resolution": str(weights.resolution),
        "encode": weights.encode,
        "fps": media.fps,
        "max_frames": media.max_frames,
        "audio": media.audio,
        "audio_track": media.audio_track,
        "max_new_tokens": generate.max_new_tokens,
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


class AnswerFile(RowFile):
    """The answers to `rows` under the `chosen` settings; `known` are those it held when it was opened.

    Rows of other settings or questions stay as they are.
    """

    program, what, start_again = "ep evaluate", "answer of an evaluation that can be resumed", "--force"

    def __init__(
        self,
        path: Path,
        rows: Sequence[Row],
        chosen: Sequence[Setting],
        made: Mapping[str, Any],
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """As RowFile; failed answers that are asked for again do not stay. DataError where the answers of the file
        were made with other options than `made`, or under an id that now is another question's."""
        self._made, self._chosen = made, set(chosen)
        self._asked = {_key(row) for row in rows}
        self._ids = {row.id for row in rows}
        self._found: dict[tuple[Key, Setting], dict[str, Any]] = {}
        super().__init__(path, resume, force)

    def __len__(self) -> int:
        return len(self._found)

    def write(self, outcome: Outcome) -> None:
        """Append an outcome. DataError where that fails."""
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
        """What the file held of a question under a setting, scored by today's expected answer."""
        said = self._found.get((_key(row), setting))
        return None if said is None else marked(row, setting, said["answer"], _tokens(said))

    def check(self, row: dict[str, Any]) -> None:
        """ValueError, KeyError or TypeError where a row is no answer."""
        _setting(row)
        _key_of(row)
        if not isinstance(row["made_with"], dict):
            raise TypeError
        if not row["error"]:
            _tokens(row)
            if not isinstance(row["answer"], str):
                raise TypeError

    def stays(self, row: dict[str, Any]) -> bool:
        """Whether a row is in the file after resuming."""
        return not (row["error"] and _key_of(row) in self._asked and _setting(row) in self._chosen)

    def found(self, row: dict[str, Any]) -> None:
        """Note a row that stays. DataError where it cannot be of one evaluation with those to come."""
        self._compare(row["made_with"])
        if _key_of(row) in self._asked:
            if _setting(row) in self._chosen:
                self._found[_key_of(row), _setting(row)] = row
        elif row["id"] in self._ids:
            hint = "Evaluate the same questions, start again by --force, or choose another --out."
            raise DataError(f"{self.path} holds an answer to another question with id {row['id']!r}.", hint)

    def _compare(self, made: Mapping[str, Any]) -> None:
        """DataError that names the first option that differs. The model's name may: its weights tell."""
        for name in (*self._made, *made):
            theirs, ours = made.get(name), self._made.get(name)
            if name != "model" and theirs != ours:
                hint = "Give the same options, start again by --force, or choose another --out."
                raise DataError(f"{self.path} was made with {name} {theirs}, and now it is {ours}.", hint)


def _key(row: Row) -> Key:
    return row.id, row.media.name, row.question, row.start, row.end


def _key_of(said: dict[str, Any]) -> Key:
    return str(said["id"]), Path(said["media"]).name, str(said["question"]), said["start"], said["end"]


def _setting(said: dict[str, Any]) -> Setting:
    return Setting(str(said["reducer"]), read_keep(str(said["keep"])))


def _tokens(said: dict[str, Any]) -> Tokens:
    before, after = ({kind: said["tokens"][kind][side] for kind in TOKEN_KINDS} for side in ("before", "after"))
    return Tokens.of(before, after)
