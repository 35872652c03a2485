"""From opened clips to results: padded batches, failures that stay with their clip, and a second try with less memory.

Knows nothing about where clips come from or results go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ..batched import Asked, Said, answers, ask, batches
from ..errors import EpError, InternalError, OutOfMemoryError
from ..features.cache import FeatureCache
from ..inputs.patches import STEP
from ..inputs.prepare import Inputs
from ..looking import View
from ..looking import look as see
from ..media.clip import Clip, Source
from ..model import EchoingPixels
from ..options import plain_keep
from ..report import Stopwatch, Tokens
from .job import Job
from .opening import UNREAD, Opened, Opener
from .result import STAGES, Failure, Result
from .task import Task, Wanted


@dataclass(frozen=True)
class _Row:
    """A row in the making. `frames` of its clip, as the model saw it."""

    key: str
    wanted: Wanted
    task: Task
    source: Source | None = None
    frames: int = 0
    view: View | None = None

    @property
    def question(self) -> str:
        return self.wanted.question


class Answerer:
    """A model that answers the questions of opened clips. It is loaded when the first one is there."""

    def __init__(self, load: Callable[[], EchoingPixels], job: Job) -> None:
        self._load, self.job = load, job
        self._cache = None if job.cache is None else FeatureCache(job.cache)

    @cached_property
    def model(self) -> EchoingPixels:
        """The loaded model."""
        return self._load()

    def __call__(self, opened: Iterable[Opened | None]) -> Iterator[list[Result]]:
        """The results of every clip, as they come. A None lets what has come be answered without waiting for more."""
        for part in batches(self._asked(opened)):
            yield self._results(part)
            for view in {one.row.view.key: one.row.view for one in part if one.row.view}.values():
                view.keep()

    def _asked(self, opened: Iterable[Opened | None]) -> Iterator[Asked[_Row] | None]:
        for one in opened:
            if one is None:
                yield None
            else:
                yield from self._look(one)

    def _look(self, opened: Opened) -> list[Asked[_Row]]:
        """All questions about a clip, which is encoded once."""
        look = opened.look
        rows = [_Row(key, wanted, opened.task) for key, wanted in opened.rows]
        if isinstance(look, EpError) or not rows:
            return _failed(rows, look, opened) if isinstance(look, EpError) else []
        model = self.model  # what keeps it from loading ends the batch
        if look == UNREAD:
            with Opener(self.job) as opener:
                return self._look(replace(opener.open(opened.task), rows=opened.rows))
        most = opened.task.options(self.job.read).max_frames
        rows = [replace(row, frames=len(look.frames) if isinstance(look, Clip) else most) for row in rows]
        try:
            view = see(model, look, opened.seconds, self._cache, opened.features)
            frames = STEP * len(view.looked.media.span.times)
            rows = [replace(row, source=view.source, frames=frames, view=view) for row in rows]
            return ask(view.looked, rows)
        except Exception as error:  # one clip must not end the batch
            failed = _told(error, rows[0])
        return self._again(rows, failed) or _failed(rows, failed, opened)

    def _again(self, rows: list[_Row], failed: EpError) -> list[Asked[_Row]]:
        """The same questions about half the frames, where memory ran out for the first time."""
        row = rows[0]
        if not isinstance(failed, OutOfMemoryError) or row.task.retried or row.frames < 2:
            return []
        half = row.frames // 2
        said = f"Memory ran out with {row.frames} frames; this is from at most {half}."
        task = replace(row.task, rows=tuple(one.wanted for one in rows), max_frames=half, retried=said)
        with Opener(self.job) as opener:
            return self._look(opener.open(task))

    def _results(self, part: list[Asked[_Row]]) -> list[Result]:
        """What came of one batch, in order. Where it fails, each question is tried alone."""
        sound = [one for one in part if one.error is None]
        if not sound:
            return [self._result(one, None, {}) for one in part]
        watch = Stopwatch(self.model.backbone.device)
        found: list[Said] = []
        failed: EpError | None = None
        try:
            found = answers(self.model, sound, self.job.ask, watch)
        except Exception as error:  # one clip must not end the batch
            failed = _told(error, sound[0].row)
        if failed is not None and len(part) > 1:
            return [result for one in part for result in self._results([one])]
        if failed is not None:
            again = self._again([part[0].row], failed)
            return self._results(again or [replace(part[0], looked=None, prompt=None, error=failed)])
        share = {stage: seconds / len(sound) for stage, seconds in watch.seconds.items()}
        later, seconds = sum(one.tokens - 1 for one in found), watch.seconds.get("generate")
        rate = later / seconds if seconds else None
        said = iter(found)
        return [self._result(one, *((None, share) if one.error else (next(said), share, rate))) for one in part]

    def _beyond(self, prompt: Inputs) -> tuple[str, ...]:
        """What is to be said of clips and prompts that are too long."""
        spans = (media.span for media in prompt.media)
        small = [said for span in spans for said in self.model.backbone.resolution.warnings(span)]
        return (*small, *self.model.overreach(int(prompt.positions.max()) + 1))

    def _result(
        self, one: Asked[_Row], said: Said | None, share: dict[str, float], rate: float | None = None
    ) -> Result:
        row, ask = one.row, self.job.ask
        parts = [one.seconds] if said is None else [one.seconds, share]
        options = row.task.options(self.job.read)
        tokens = None if said is None else Tokens.of(said.before, said.after)
        counts = None if said is None else {k: {"before": n, "after": said.after[k]} for k, n in said.before.items()}
        return Result(
            key=row.key,
            id=row.wanted.id,
            media=row.task.media,
            start=options.start,
            end=options.end,
            question=row.question,
            answer=None if said is None else said.text,
            finish_reason=None if said is None else said.reason,
            model=self.job.model,
            reducer=ask.reducer,
            keep=plain_keep(ask.keep),
            kept_ratio=None if tokens is None else tokens.kept_ratio,
            tokens=counts,
            time_s={stage: sum(p.get(stage, 0.0) for p in parts) for stage in STAGES},
            said=None if said is None else said.tokens,
            tokens_per_s=rate,
            warnings=(
                *(row.source.warnings if row.source else ()),
                *(() if one.prompt is None else self._beyond(one.prompt)),
            ),
            notes=(*(row.source.notes if row.source else ()), *(self.model.notes(ask.reducer) if said else ())),
            cached=row.view is not None and row.view.cached,
            retried=row.task.retried,
            error=None if one.error is None else Failure.of(one.error),
        )


def _failed(rows: list[_Row], error: EpError, opened: Opened) -> list[Asked[_Row]]:
    """No answer for any row of a clip; what it took counts in the first one."""
    return [Asked(row, None, None, {} if i else opened.seconds, error) for i, row in enumerate(rows)]


def _told(error: Exception, row: _Row) -> EpError:
    """Any error as one that a row can tell."""
    if isinstance(error, EpError):
        return error
    said = " ".join(str(error).split())
    what = f"{row.task.media} could not be answered: {type(error).__name__}: {said}"
    return InternalError(what, "Please report it; `ep ask --debug` shows where it is.")
