"""Measured cells on disk, one JSON file each, and the fingerprints that tell whether one is still valid."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from echoingpixels.checkpoints.fingerprint import MODEL_FILES, file_mark
from echoingpixels.checkpoints.loading import place_of
from echoingpixels.datasets.questions import Row, read_rows
from echoingpixels.evaluation.evaluate import Outcome
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.storage.folders import write_text_atomically

from .plan import FUSED, OWN, SETS, Cell

FIRST = 100  # questions whose text and clips stand for a set
SIEVES = {OWN: "sieve", FUSED: "sieve-fused"}  # folders of the model
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Answered:
    """The answers to the first questions of a set, in order: right (None: the clip failed), and kept tokens.

    `seconds`: to make them, an equal share of those of all cells measured together. `made`: versions, cores and date.
    """

    right: tuple[bool | None, ...] = ()
    video: tuple[int, ...] = ()
    audio: tuple[int, ...] = ()
    seconds: float = 0.0
    made: dict[str, str] = field(default_factory=dict)

    def and_then(self, outcomes: Sequence[Outcome], seconds: float, made: dict[str, str]) -> Answered:
        """The same with further answers."""
        tokens = [None if one.tokens is None else one.tokens.after for one in outcomes]
        return Answered(
            (*self.right, *(one.right for one in outcomes)),
            (*self.video, *(0 if one is None else one.video for one in tokens)),
            (*self.audio, *(0 if one is None else one.audio for one in tokens)),
            self.seconds + seconds,
            made,
        )

    def first(self, n: int) -> Answered:
        """The first n answers."""
        share = min(1.0, n / max(1, len(self.right)))
        return Answered(self.right[:n], self.video[:n], self.audio[:n], self.seconds * share, self.made)


@dataclass(frozen=True)
class Store:
    """The measurements of one model below a folder. `most`: questions of a set at most; fewer for a trial."""

    folder: Path
    model: str = "tiny"
    most: int = 10**9

    @cached_property
    def place(self) -> Path:
        """The model's folder."""
        return Path(place_of(self.model))

    @cached_property
    def mark(self) -> str:
        """The fingerprint of the model's weights and configuration, without its sieves."""
        return _digest(_files(self.place))

    def sieve_folder(self, sieve: str) -> Path:
        """The folder of a sieve of the model, or of a trained variant."""
        return self.place / SIEVES[sieve] if sieve in SIEVES else self.folder / "sieves" / self.mark / sieve

    def questions(self, name: str) -> Path:
        """The question file of a set."""
        return self.folder / name / "questions.jsonl"

    def rows(self, cell: Cell) -> list[Row]:
        """The questions of a cell; empty where the set was not made."""
        return self._rows(cell.of)[: min(self.most, cell.questions)]

    def get(self, cell: Cell) -> Answered | None:
        """The complete answers of a cell; None where it was not measured."""
        found, needed = self.begun(cell), len(self.rows(cell))
        return found.first(needed) if 0 < needed <= len(found.right) else None

    def begun(self, cell: Cell) -> Answered:
        """The answers measured so far."""
        path = self.file(cell)
        if path is None or not path.exists():
            return Answered()
        known = json.loads(path.read_text(encoding="utf-8"))["answers"]
        right, video, audio = (tuple(known[name]) for name in ("right", "video", "audio"))
        return Answered(right, video, audio, known["seconds"], known["made"])

    def put(self, cell: Cell, answers: Answered) -> None:
        """Write the answers measured so far."""
        path = self.file(cell)
        assert path is not None, f"{cell.of} and {cell.sieve} exist"
        about = {"model": self.model, "set": cell.of, "sieve": cell.sieve, "reducer": cell.reducer, "keep": cell.keep}
        write_text_atomically(path, json.dumps({**about, "answers": asdict(answers)}) + "\n")

    def file(self, cell: Cell) -> Path | None:
        """The file of a cell, named by a digest of all that its answers depend on; None if a part is missing."""
        folder, rows = self.sieve_folder(cell.sieve), self._rows(cell.of)
        if not rows or cell.reducer not in REDUCERS or (cell.needs_sieve and not folder.is_dir()):
            return None
        sieve = _digest(_files(folder)) if cell.needs_sieve else ""
        rule = ADDRESS.sub("", repr(REDUCERS[cell.reducer]))
        key = _digest([self.mark, sieve, rule, self._marks[cell.of], repr(cell.keep), repr(cell.reuse)])
        name = f"{cell.sieve}-{cell.reducer}" if sieve else cell.reducer
        return self.folder / "cells" / cell.of / f"{name}-{cell.keep:g}-{key}.json"

    def _rows(self, name: str) -> list[Row]:
        if name not in self._read:
            path = self.questions(name)
            self._read[name] = read_rows(path) if path.exists() else []
            rows = self._read[name][:FIRST]
            clips = [file_mark(path) for path in dict.fromkeys(row.media for row in rows)]
            self._marks[name] = _digest([str(SETS[name]), *(f"{row.question} {row.answer}" for row in rows), *clips])
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, list[Row]]:
        return {}

    @cached_property
    def _marks(self) -> dict[str, str]:
        return {}


def _files(folder: Path) -> list[str]:
    """Names and contents of a folder's model files."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in MODEL_FILES)
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
