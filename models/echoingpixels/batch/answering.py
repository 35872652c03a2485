"""From opened clips to results, in padded batches. A failure affects its own clip only; a clip that does not fit is
retried with half of its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from ..batching import Prompt, answer_each, batches
from ..encoded_clip import CACHED, EncodedClip, from_cache
from ..errors import EpError, OutOfMemoryError, internal
from ..features.cache import CachedClip, FeatureCache
from ..generation.answer import Answer, Cost
from ..inputs.patches import STEP
from ..media.clip import Clip
from ..model import EchoingPixels
from ..report import StageTimes
from .job import Job, Task, Wanted
from .opening import UNREAD, Opened, Opener
from .result import STAGES, Failure, Result


@dataclass(frozen=True)
class _Row:
    """One question with its prompt, or the error of its clip.

    `frames`: frames of the clip that the model encodes. `before`: seconds by stage before the model, {} except in a
    clip's first row. `first`: the seconds of the clip count in this row.
    """

    key: str
    wanted: Wanted
    task: Task
    before: dict[str, float]
    first: bool
    frames: int = 0
    prompt: Prompt | None = None
    error: EpError | None = None

    @property
    def tokens(self) -> int:
        return 0 if self.prompt is None else self.prompt.tokens


class Answerer:
    """A model that answers questions about opened clips. It is loaded when the first clip arrives."""

    def __init__(self, load: Callable[[], EchoingPixels], job: Job) -> None:
        self._load, self.job = load, job
        self._cache = None if job.cache is None else FeatureCache(job.cache)

    @cached_property
    def model(self) -> EchoingPixels:
        """The loaded model."""
        return self._load()

    def __call__(self, opened: Iterable[Opened | None]) -> Iterator[list[Result]]:
        """Results in batches. At a None, the current batch is answered without waiting for more clips."""
        for part in batches(self._rows(opened)):
            yield self._results(part)

    def _rows(self, opened: Iterable[Opened | None]) -> Iterator[_Row | None]:
        for one in opened:
            if one is None:
                yield None
            else:
                yield from self._clip(one)

    def _clip(self, opened: Opened) -> list[_Row]:
        """The rows of a clip, which is encoded once."""
        if not opened.rows:
            return []
        rows = [
            _Row(key, wanted, opened.task, {} if i else opened.seconds, first=i == 0)
            for i, (key, wanted) in enumerate(opened.rows)
        ]
        if isinstance(opened.clip, EpError):
            return [replace(row, error=opened.clip) for row in rows]
        model = self.model  # an error while it loads ends the batch
        if opened.clip == UNREAD:
            with Opener(self.job) as opener:
                return self._clip(replace(opener.open(opened.task), rows=opened.rows))
        most = opened.task.options(self.job.read).max_frames
        frames = len(opened.clip.frames) if isinstance(opened.clip, Clip) else most
        rows = [replace(row, frames=frames) for row in rows]
        try:
            clip = self._encoded(model, opened)
            frames = STEP * len(clip.media.span.times)
            return [replace(row, frames=frames, prompt=clip.prompt(row.wanted.question)) for row in rows]
        except Exception as error:  # one clip must not end the batch
            failed = internal(error, opened.task.media)
        return self._again(rows, failed) or [replace(row, error=failed) for row in rows]

    def _encoded(self, model: EchoingPixels, opened: Opened) -> EncodedClip:
        assert not isinstance(opened.clip, str | EpError), "handled before"
        if isinstance(opened.clip, CachedClip):
            clip = from_cache(model, opened.clip, {})
        else:
            pieces = opened.clip.pieces() if isinstance(opened.clip, Clip) else opened.clip
            slot = None if self._cache is None or not opened.features else self._cache.slot(opened.features)
            clip = model.encode_pieces(pieces, {}, slot)
        elsewhere = {name: n for name, n in opened.seconds.items() if name != "fetch"}  # in the process that decodes
        return replace(clip, time_s=StageTimes(**{**clip.time_s.known(), **elsewhere}))

    def _again(self, rows: list[_Row], failed: EpError) -> list[_Row]:
        """The same questions about half of the frames, if memory ran out and they were not retried yet; else none."""
        row = rows[0]
        if not isinstance(failed, OutOfMemoryError) or row.task.retried or row.frames < 2:
            return []
        half = row.frames // 2
        retried = f"Memory ran out with {row.frames} frames; this is from at most {half}."
        task = replace(row.task, rows=tuple(one.wanted for one in rows), max_frames=half, retried=retried)
        with Opener(self.job) as opener:
            return self._clip(opener.open(task))

    def _results(self, part: list[_Row]) -> list[Result]:
        """The results of one batch, in order."""
        prompts = [one.prompt for one in part if one.prompt is not None]
        answers = iter(answer_each(self.model, prompts, self.job.ask, Exception) if prompts else ())
        return [result for one in part for result in self._row_results(one, None if one.error else next(answers))]

    def _row_results(self, row: _Row, answer: Answer | Exception | None) -> list[Result]:
        """The result of one row, or of its retry if memory ran out."""
        if not isinstance(answer, Exception):
            return [self._result(row, answer)]
        failed = internal(answer, row.task.media)
        again = self._again([row], failed)
        if again:
            return self._results(again)
        return [self._result(replace(row, error=failed), None)]

    def _result(self, row: _Row, answer: Answer | None) -> Result:
        options, clip = row.task.options(self.job.read), None if row.prompt is None else row.prompt.clip
        cost = Cost() if row.prompt is None else row.prompt.cost(self.job.ask)
        made = Result(
            key=row.key,
            id=row.wanted.id,
            media=row.task.media,
            start=options.start,
            end=options.end,
            question=row.wanted.question,
            answer=None,
            finish_reason=None,
            model=self.job.model,
            reducer=self.job.ask.reducer,
            keep=self.job.ask.keep,
            kept_ratio=None,
            tokens=None,
            time_s=_seconds(row, clip.time_s if clip is not None and row.first else None),
            warnings=cost.warnings,
            notes=tuple(note for note in cost.notes if note != CACHED),
            cached=clip is not None and clip.cached,
            retried=row.task.retried,
            error=None if row.error is None else Failure.of(row.error),
        )
        if answer is None or clip is None:
            return made
        report = answer.report
        return replace(
            made,
            answer=answer.text,
            finish_reason=answer.finish_reason,
            kept_ratio=report.tokens.kept_ratio,
            tokens=asdict(report.tokens),
            time_s=_seconds(row, report.time_s if row.first else report.time_s - clip.time_s),
            said=len(answer.token_ids),
            tokens_per_s=report.tokens_per_s,
            **answer.evidence.as_dict(),
            warnings=answer.warnings,
            notes=tuple(note for note in answer.notes if note != CACHED),  # `cached` states it
        )


def _seconds(row: _Row, spent: StageTimes | None) -> dict[str, float]:
    """The seconds of a row by stage: before the model, and `spent` in it."""
    known = {} if spent is None else spent.known()
    return {stage: known.get(stage, row.before.get(stage, 0.0)) for stage in STAGES}
