"""An answer and its report, as JSON, as one line, and as labelled lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echoingpixels.generation.answer import Answer
    from echoingpixels.model import EchoingPixels
    from echoingpixels.options import AskOptions
    from echoingpixels.planning.estimate import Memory
    from echoingpixels.planning.plan import Plan
    from echoingpixels.report import Report, StageTimes

UNITS = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class Result:
    """One question with its answer, or a plan (`answer` None). `full`: the answer from all tokens, with --compare."""

    media: str
    question: str
    model: str
    options: AskOptions
    quant: str
    device: str
    report: Report
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    answer: Answer | None = None
    full: Answer | None = None
    plan: Plan | None = None

    @classmethod
    def of(
        cls, media: str, question: str, name: str, model: EchoingPixels, answer: Answer, full: Answer | None = None
    ) -> Result:
        """The result of an answer of the model `name`."""
        return cls(
            media=media,
            question=question,
            model=name,
            options=answer.options,
            quant=model.quant,
            device=model.backbone.device.type,
            report=answer.report,
            warnings=answer.warnings,
            notes=answer.notes,
            answer=answer,
            full=full,
        )

    @property
    def memory_ratio(self) -> float | None:
        """Peak memory of the full run over that of the reduced one."""
        mine, full = self.report.memory_bytes.peak, self.full and self.full.report.memory_bytes.peak
        return full / mine if mine and full else None

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `ep ask --json`."""
        values: dict[str, Any] = {
            "media": self.media,
            "question": self.question,
            "answer": self.answer.text if self.answer else None,
            "model": self.model,
            "reducer": self.options.reducer,
            "keep": self.options.keep,
            "quant": self.quant,
            "device": self.device,
            "finish_reason": self.answer.finish_reason if self.answer else None,
            **self.report.as_dict(),
            **(self.answer.evidence.as_dict() if self.answer else {"evidence": None, "no_evidence": None}),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }
        if self.plan is not None:
            memory = self.plan.memory
            values["memory_bytes"] = {**memory.as_dict(), "fits": memory.fits, "advice": list(self.plan.advice)}
        if self.full is not None:
            cost = self.full.report
            values["full"] = {
                "answer": self.full.text,
                "time_s": cost.time_s.as_dict(),
                "memory_bytes": cost.memory_bytes.as_dict(),
            }
            values["memory_ratio"] = self.memory_ratio
        return values

    def lines(self) -> list[tuple[str, str]]:
        """The report as labels and values."""
        found = "" if self.answer is None else str(self.answer.evidence)
        costs = [*self._tokens(), ("evidence", found), ("time", self._times()), ("speed", self._speed())]
        memory = ", ".join(
            f"{name} {big(n, 'B')}" for name, n in self.report.memory_bytes.as_dict().items() if n is not None
        )
        flops = ", ".join(f"{name} {big(n, 'FLOP')}" for name, n in vars(self.report.flops).items())
        speedup = self.report.speedup
        costs += [("memory", memory)] if self.plan is None else memory_lines(self.plan.memory)
        costs += [("to fit", text) for text in (() if self.plan is None else self.plan.advice)]
        costs += [("compute", flops), ("speedup (estimate)", ratio(speedup.estimated))]
        if self.full is not None:
            costs.append(("speedup (measured)", ratio(speedup.measured)))
            costs.append(("memory, full / reduced", ratio(self.memory_ratio)))
            costs.append(("answer, reduced", self.answer.text or "(nothing)" if self.answer else ""))
            costs.append(("answer, all tokens", self.full.text or "(nothing)"))
        return [(label, value) for label, value in [*costs, *self.remarks()] if value]

    def remarks(self) -> list[tuple[str, str]]:
        """Warnings and notes as labels and values."""
        return [("warning", text) for text in self.warnings] + [("note", text) for text in self.notes]

    def summary(self, spent: StageTimes | None = None) -> str:
        """One line: kept tokens by modality, total time, time to first token, estimated speedup, first moment.

        `spent`: the seconds to print; None for all of the report.
        """
        budget, spent = self.report.tokens, spent or self.report.time_s
        kinds = ((name, n) for name, n in vars(budget).items() if n.before and name != "text")
        counts = ", ".join(f"{name} {n.before}→{n.after}" for name, n in kinds)
        parts = [f"{counts} tokens ({100 * budget.kept_ratio:.1f} %)"]
        if spent.known():
            parts.append(f"{spent.total:.2f} s, first token {spent.first_token:.2f} s")
        speedup = self.report.speedup.estimated
        if self.options.reducer != "full":
            faster = f"about {speedup:.1f}x faster" if speedup >= 1.05 else "no speedup"
            parts.append(f"{faster} (estimate)")
        if self.answer is not None and self.answer.evidence.moments:
            parts.append(f"evidence {self.answer.evidence.moments[0]}")
        return " · ".join(parts)

    def _tokens(self) -> list[tuple[str, str]]:
        budget = self.report.tokens
        counts = [(f"{name} tokens", f"{n.before} → {n.after}") for name, n in vars(budget).items() if n.before]
        by = "" if self.options.reducer == "full" else f", selected by {self.options.reducer}"
        prompt, encoded = vars(budget), vars(self.report.encoded)
        less = [
            f"{n} of {prompt[kind].before} {kind}"
            for kind, n in encoded.items()
            if kind != "text" and n < prompt[kind].before
        ]
        counts += [("encoded", f"{', '.join(less)} tokens")] if less else []
        return [*counts, ("kept", f"{100 * budget.kept_ratio:.1f} % of the audio and video tokens{by}")]

    def _times(self) -> str:
        spent = self.report.time_s
        known = spent.known()
        if not known:
            return ""
        beside = {"load": "loading the model took", "evidence": "evidence took"}  # not in the total
        stages = " + ".join(f"{name} {seconds:.2f}" for name, seconds in known.items() if name not in beside)
        others = (f"{text} {known[name]:.2f} s" for name, text in beside.items() if name in known)
        return "; ".join([f"{spent.total:.2f} s = {stages}", *others])

    def _speed(self) -> str:
        first, rate = self.report.time_s.first_token, self.report.tokens_per_s
        if self.answer is None:
            return ""
        then = "" if rate is None else f", then {rate:.1f} tokens/s"
        return f"first token after {first:.2f} s{then}"


def big(n: float, unit: str) -> str:
    """A large number with its decimal prefix: 19.0 MB."""
    power = 0
    while n >= 1000 and power + 1 < len(UNITS):
        n, power = n / 1000, power + 1
    return f"{n:.3g} {UNITS[power]}{unit}"


def memory_lines(memory: Memory) -> list[tuple[str, str]]:
    """Estimated memory by stage, as labels and values; constant memory is listed once."""
    constant = f"weights {big(memory.weights, 'B')}"
    rows = [("memory", constant + (f", program {big(memory.program, 'B')}" if memory.program else ""))]
    for stage in memory.stages:
        parts = {"tensors": stage.held, "KV cache": stage.kv_cache, "activations": stage.activations}
        shown = [f"{name} {big(n, 'B')}" for name, n in parts.items() if n]
        if shown:
            total = memory.weights + memory.program + stage.beside_weights
            rows.append((f"memory, {stage.name}", f"{big(total, 'B')}: {' + '.join(shown)}"))
    room = "" if memory.free is None else f", {big(memory.free, 'B')} available: it "
    verdict = {None: "", True: "fits", False: "does not fit"}[memory.fits]
    return [*rows, ("memory, peak", f"{big(memory.peak, 'B')}{room}{verdict}")]


def ratio(value: float | None) -> str:
    """Such as 1.58 ×."""
    return "" if value is None else f"{value:.2f} ×"
