"""The cost of reducers and keep ratios on clips, measured in alternation with the run from all tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..datasets.score import Score
from ..errors import EpError, MediaError
from ..generation.answer import Answer
from ..media import Reader
from ..media.clip import Source
from ..model import EchoingPixels
from ..options import AskOptions, GenerateOptions, MediaOptions, ProfileOptions
from ..reducers.setting import Setting, settings
from ..report import reset_peak
from .measurements import Measured, Sample, fold
from .recommend import Recommendation, name, recommend

BASELINES = ("uniform", "random")  # always measured: they are strong
SHARED = "Reading, preparing and encoding a clip are timed once per round and counted in every setting."


@dataclass(frozen=True)
class Profile:
    """One Measured a setting, the first with all tokens.

    `failed`: clips that could not be read or did not fit in memory, with the reason. `warnings`: of the clips.
    `remarks`: notes on the clips and the model.
    """

    question: str
    model: str
    quant: str
    device: str
    options: ProfileOptions
    runs: tuple[Measured, ...]
    failed: dict[Path, str]
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def recommended(self) -> Recommendation:
        """The setting to use."""
        return recommend(self.runs)

    @property
    def settings(self) -> list[Setting]:
        """The measured settings."""
        return [run.setting for run in self.runs]

    @property
    def notes(self) -> list[str]:
        """Notes on how to read the figures, and on missing ones."""
        notes = [*self.remarks, SHARED]
        if self.options.repeat == 1:
            notes.append("With --repeat 1 there is no spread.")
        if any(run.memory_bytes["peak"] is None for run in self.runs):
            notes.append("Peak memory was not measured: this system does not let a process start a new peak.")
        single = [name(run.setting) for run in self.runs if run.tokens_per_s is None]
        if single:
            where = "any setting" if len(single) == len(self.runs) else ", ".join(single)
            notes.append(f"Decoding speed was not measured for {where}: no answer has more than one token.")
        if len({tuple(reply.tokens for reply in run.replies) for run in self.runs}) > 1:
            notes.append(
                "Answers differ in length, which affects total, llm and speedup; first_token does not depend on it."
            )
        if len(self.runs[0].replies) == 1 and self.runs[0].score is None:
            notes.append("One answer about one clip is little evidence: profile a folder, or add --data.")
        return notes

    def scored(self, scores: Mapping[Setting, Score]) -> Profile:
        """With the scores of its settings on questions with known answers."""
        return replace(self, runs=tuple(replace(run, score=scores[run.setting]) for run in self.runs))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        best = self.recommended
        return {
            "question": self.question,
            "model": self.model,
            "quant": self.quant,
            "device": self.device,
            "repeat": self.options.repeat,
            "warm_up": self.options.warm_up,
            "seed": self.options.seed,
            "clips": [str(reply.clip) for reply in self.runs[0].replies],
            "failed": {str(clip): reason for clip, reason in self.failed.items()},
            "runs": [run.as_dict() for run in self.runs],
            "recommended": {**best.setting.as_dict(), "reason": best.reason},
            "warnings": list(self.warnings),
            "notes": self.notes,
        }


def profile(
    model: EchoingPixels,
    clips: Sequence[Path],
    question: str,
    options: ProfileOptions | None = None,
    read: MediaOptions | None = None,
    generate: GenerateOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    reader: Reader | None = None,
) -> Profile:
    """Ask one question about every clip under every setting, in rounds, and summarise the reports.

    `on_progress` gets the number of answers done and of all. `reader`: a worker's `stream`, or `stream_clip`. Of
    several clips, those that cannot be read or do not fit in memory are reported in `failed`. MediaError if none is
    left, ModelError for cs2 without sieve weights.
    """
    options, read, generate = options or ProfileOptions(), read or MediaOptions(), generate or GenerateOptions()
    chosen = choose(model, options)
    resets = reset_peak(model.backbone.device)
    samples: list[Sample] = []
    sources: dict[Path, Source] = {}
    failed: dict[Path, str] = {}
    before, turns = options.warm_up * len(clips), options.repeat * len(clips)
    for turn in range(-before, turns):
        repeat, path = turn // len(clips), clips[turn % len(clips)]
        if path in failed:
            continue
        try:
            clip = model.encode(path, read, cache=None, reader=reader)  # every round times the whole path
            sources[path] = clip.source
            for done, setting in enumerate(in_turn(chosen, turn, turns, options.seed), 1):
                answer = clip.ask(
                    question, AskOptions(setting.reducer, setting.keep, generate, evidence=False, reuse_prefix=False)
                )
                answer = answer if resets else _without_peak(answer)
                if repeat >= 0:
                    samples.append(Sample(path, repeat, setting, answer))
                if on_progress is not None:
                    on_progress((before + turn) * len(chosen) + done, (before + turns) * len(chosen))
        except EpError as error:
            failed[path] = error.message
            if len(failed) == len(clips):
                raise error if len(clips) == 1 else _none(failed) from error
    read_well = [sources[path] for path in clips if path not in failed]
    return Profile(
        question=question,
        model=model.backbone.name,
        quant=model.quant,
        device=model.backbone.device.type,
        options=options,
        runs=fold(chosen, (sample for sample in samples if sample.clip not in failed)),
        failed=failed,
        warnings=_named(read_well, lambda source: source.warnings),
        remarks=(*_named(read_well, lambda source: source.notes), *model.notes("full")),
    )


def choose(model: EchoingPixels, options: ProfileOptions) -> list[Setting]:
    """The settings to measure, all tokens first. ModelError for cs2 without sieve weights."""
    names = [model.reducer_of(name) for name in options.reducers]
    for reducer in names:
        model.check(reducer)
    return settings([*names, *BASELINES], [1.0, *options.keeps])


def in_turn(chosen: Sequence[Setting], turn: int, turns: int, seed: int) -> list[Setting]:
    """The order of settings in one of several turns: shuffled once, and rotated from turn to turn.

    Over the turns each setting runs early, midway and late, so that drift affects all alike.
    """
    order = random.Random(seed).sample(list(chosen), len(chosen))
    first = turn * len(order) // turns % len(order)
    return order[first:] + order[:first]


def _without_peak(answer: Answer) -> Answer:
    """The same without peak memory, for systems that cannot reset the peak."""
    memory = replace(answer.report.memory_bytes, peak=None, peak_llm=None)
    return replace(answer, report=replace(answer.report, memory_bytes=memory))


def _none(failed: dict[Path, str]) -> MediaError:
    what = f"None of the {len(failed)} clips can be measured; the last: {[*failed.values()][-1]}"
    return MediaError(what, "Give at least one file with picture or sound.")


def _named(sources: Sequence[Source], texts: Callable[[Source], tuple[str, ...]]) -> tuple[str, ...]:
    """The texts about all clips, each with the name of its clip if there are several."""
    pairs = [(Path(source.path).name, text) for source in sources for text in texts(source)]
    return tuple(f"{clip}: {text}" if len(sources) > 1 else text for clip, text in pairs)
