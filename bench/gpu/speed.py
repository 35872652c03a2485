"""Seconds and memory of each stage by setting, of the encoders alone, of decoding by KV cache, and by quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.decode import WAYS
from bench.gpu.models import PLAIN, attention, attention_of, with_encoder_keep
from bench.gpu.parity import questions
from bench.gpu.rows import Case, Row, failure, reason
from bench.gpu.setup import Setup
from bench.memory import encode_audio, encode_video, measured
from echoingpixels.backbones.pruning import default_layers
from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.encoded_clip import EncodedClip
from echoingpixels.errors import EpError
from echoingpixels.generation.answer import joined
from echoingpixels.inputs.prepare import prepare_media
from echoingpixels.options import QUANTS, AskOptions, Quant
from echoingpixels.options.encoder_keep import OFF, EncoderKeep
from echoingpixels.profiling.measurements import FULL, Spread
from echoingpixels.reducer_names import SIEVE_DEFAULT, UNSIEVED
from echoingpixels.reducers.setting import Setting
from echoingpixels.report import STAGES, StageTimes

SHARES = (0.3, 0.15)  # of cells that the vision encoder keeps
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Way:
    """One way to answer. `decoding`: a name of bench.decode's WAYS."""

    setting: Setting
    decoding: str = "plain"

    def options(self, tokens: int) -> AskOptions:
        """The same, for answers of `tokens` tokens."""
        generate = replace(WAYS[self.decoding], max_new_tokens=tokens)
        return AskOptions(self.setting.reducer, self.setting.keep, generate, evidence=False, reuse_prefix=False)


def stages(setup: Setup) -> Iterator[Case]:
    """All tokens, and each keep ratio by the two default reducers: one question, and a batch."""
    ways = [Way(FULL), *(Way(Setting(one, keep)) for keep in setup.keeps for one in (UNSIEVED, SIEVE_DEFAULT))]
    for batch in (1, setup.batch):
        yield Case("stages", f"batch {batch}", partial(_answered, setup, ways, batch))


def decoding(setup: Setup, compiled: bool) -> Iterator[Case]:
    """A KV cache that grows, a static one, and a compiled step."""
    for batch in (1, setup.batch):
        ways = [Way(_short(setup), name) for name in WAYS if compiled or name != "compiled"]
        yield Case("decoding", f"batch {batch}", partial(_answered, setup, ways, batch))


def quantization(setup: Setup) -> Iterator[Case]:
    """Half precision and nf4."""
    for quant in QUANTS[:2]:
        ways = [Way(FULL), Way(_short(setup))]
        yield Case("quantization", quant, partial(_answered, setup, ways, 1, quant))


def encoders(setup: Setup) -> Iterator[Case]:
    """The encoders alone, by attention function and by encoder keep."""
    yield Case("encoders", "encoders", partial(_encoded, setup))


def _short(setup: Setup) -> Setting:
    return Setting(UNSIEVED, setup.keeps[len(setup.keeps) // 2])


def _answered(setup: Setup, ways: Sequence[Way], batch: int, quant: Quant = "none") -> Iterator[Row]:
    """Every round reads and encodes the clip and answers in all ways; ratios are to the first way within a round.

    A way for which memory is too small, or that cannot be compiled, fails alone.
    """
    model = setup.models.get(setup.half, quant)
    rounds: dict[Way, list[Figures]] = {way: [] for way in ways}
    failed: dict[Way, str] = {}
    for turn in range(setup.repeat + 1):
        clip = model.encode(setup.clip, setup.read, cache=None, reader=setup.worker.stream)
        for way in [way for way in ways if way not in failed]:
            try:
                found = _figures(clip, way.options(setup.tokens), batch)
            except EpError as error:
                failed[way] = reason(error)
                continue
            rounds[way] += [found] if turn else []
        if turn and setup.budget.spent:
            break
    base = None if ways[0] in failed else rounds[ways[0]]
    for way in ways:
        row = {"batch": batch, "quant": quant, "dtype": setup.half, **way.setting.as_dict(), "decoding": way.decoding}
        yield {**row, **(failure(failed[way]) if way in failed else _summary(rounds[way], base))}


def _figures(clip: EncodedClip, options: AskOptions, batch: int) -> Figures:
    """The cost of one batch of questions about a clip: the seconds are those of all its rows."""
    prompts = [clip.prompt(question) for question in questions(batch)]
    prepared = sum((prompt.time_s for prompt in prompts), StageTimes())
    reports = [answer.report for answer in joined(clip.model.stream(prompts, options))]
    times = sum((report.question_s for report in reports), replace(clip.time_s, load=None) + prepared)
    return {
        **{f"{name}_s": getattr(times, name) for name in STAGES if name in times.known()},
        "first_token_s": times.first_token,
        "llm_s": (times.select or 0.0) + (times.prefill or 0.0),
        "tokens_per_s": reports[0].tokens_per_s,
        "peak_bytes": reports[0].memory_bytes.peak_llm,
        "weights_bytes": reports[0].memory_bytes.weights,
        "tokens": reports[0].tokens.before.pool,
        "kept": reports[0].tokens.after.pool,
    }


COUNTS = ("tokens", "kept", "weights_bytes")


def _summary(mine: list[Figures], base: list[Figures] | None) -> Row:
    """Counts, and medians with extremes of the other figures and of the ratios to the base."""
    row: dict[str, Any] = {name: mine[0][name] for name in COUNTS}
    row |= {name: Spread.of(one[name] for one in mine) for name in mine[0] if name not in COUNTS}
    for name, of in (("speedup", "first_token_s"), ("llm_speedup", "llm_s"), ("decoding_speedup", "tokens_per_s")):
        pairs = [] if base is None else [(a[of], b[of]) for a, b in zip(base, mine, strict=True)]
        if of == "tokens_per_s":
            pairs = [(b, a) for a, b in pairs]
        row[name] = Spread.of(a / b if a and b else None for a, b in pairs)
    return row


def _encoded(setup: Setup) -> Iterator[Row]:
    """Seconds of the device over patches and log-mel in memory, and the peak beside the weights."""
    model, device = setup.models.get(setup.half), setup.device
    on = model.backbone
    assert isinstance(on, QwenOmni)
    media, own = prepare_media(setup.decoded(model), on.resolution), attention_of(on.thinker)["vision"]
    visual = on.thinker.model.visual
    keeps = [EncoderKeep(SHARES[:1]), *([EncoderKeep(SHARES)] if len(default_layers(visual, 2)) == 2 else [])]
    ways = [(own, None), *([(PLAIN, None)] if own != PLAIN else []), *((own, keep) for keep in keeps)]
    rounds: list[list[tuple[float, ...]]] = []
    for _ in range(setup.repeat + 1):
        rounds.append([])
        for function, keep in ways:
            backbone = with_encoder_keep(model, keep).backbone
            with attention(model, function):
                video, seconds, peak = measured(partial(encode_video, backbone, media), device)
                _, audio_s, audio_peak = measured(partial(encode_audio, backbone, media), device)
            rounds[-1].append((seconds, audio_s, max(peak, audio_peak), len(video.video)))
        if len(rounds) > 1 and setup.budget.spent:
            break
    for i, (function, keep) in enumerate(ways):
        mine = [one[i] for one in rounds[1:]]
        yield {
            "attention": function,
            "encoder_keep": OFF if keep is None else str(keep),
            "video_s": Spread.of(one[0] for one in mine),
            "audio_s": Spread.of(one[1] for one in mine),
            "speedup": Spread.of(one[0][0] / one[i][0] for one in rounds[1:]),
            "peak_bytes": Spread.of(one[2] for one in mine),
            "video_tokens": mine[0][3],
            "of": media.span.video_tokens,
        }
