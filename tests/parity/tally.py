"""Counts what was compared and how far apart it was. Knows nothing about models or fixture formats."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

EXACT = 0.0


class FixtureError(Exception):
    """The folder cannot be compared with at all; the message is one line."""


@dataclass
class Line:
    """One kind of tensor: how many numbers, and where the largest difference was."""

    bound: float
    numbers: int = 0
    largest: float = 0.0
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.largest <= self.bound


class Recorded:
    """The tensors of one file, and which of them nobody has asked for yet."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FixtureError(f"{path} is missing, though the manifest names it")
        try:
            self.tensors = load_file(path)
        except SafetensorError as error:
            raise FixtureError(f"{path} cannot be read: {error}") from error
        self.unread = set(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name, or None."""
        return self[name] if name in self.tensors else None


class Tally:
    """All comparisons of one folder, by kind of tensor."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.skipped: list[str] = []
        self.problems: list[str] = []

    def compare(self, kind: str, where: str, ours: Tensor | Iterable[float], recorded: Tensor, bound: float) -> None:
        """Add one comparison; another shape, or a value that is not a number, is infinitely far off."""
        ours = ours.detach().cpu() if isinstance(ours, Tensor) else torch.tensor(list(ours))
        line = self.lines.setdefault(kind, Line(bound))
        line.numbers += recorded.numel()
        if ours.shape != recorded.shape:
            self.problems.append(f"{kind}: shape {list(recorded.shape)} recorded, {list(ours.shape)} here ({where})")
            difference = math.inf
        else:
            apart = (ours.double() - recorded.double()).abs()
            difference = math.inf if bool(apart.isnan().any()) else float(apart.max()) if apart.numel() else 0.0
        if difference > line.largest or not line.where:
            line.largest, line.where = max(difference, line.largest), where

    def skip(self, what: str, why: str) -> None:
        """Say that something recorded is left out on purpose."""
        self.skipped.append(f"not compared: {what}: {why}")

    def problem(self, text: str) -> None:
        """Something is wrong that is no difference between numbers."""
        self.problems.append(text)

    @property
    def numbers(self) -> int:
        return sum(line.numbers for line in self.lines.values())

    @property
    def ok(self) -> bool:
        return not self.problems and all(line.ok for line in self.lines.values())

    def report(self) -> str:
        """One line a kind, then what was left out, then what is wrong."""
        out = [f"{'tensor kind':24} {'numbers':>9}  {'largest difference':>18}  {'bound':>6}"]
        for kind, line in self.lines.items():
            bound = "exact" if line.bound == EXACT else f"{line.bound:.0e}"
            verdict = "ok" if line.ok else f"PAST THE BOUND in {line.where}"
            out.append(f"{kind:24} {line.numbers:9,}  {line.largest:18.3g}  {bound:>6}  {verdict}")
        out += self.skipped + [f"problem: {text}" for text in self.problems]
        past = [kind for kind, line in self.lines.items() if not line.ok]
        if self.ok:
            out.append(f"parity: all {self.numbers:,} numbers within their bounds")
        else:
            out.append(f"parity: FAILED, past the bound: {', '.join(past) or 'none'}; problems: {len(self.problems)}")
        return "\n".join(out)
