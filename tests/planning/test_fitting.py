"""If an answer does not fit, the advised changes make it fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from echoingpixels.planning import advice, estimate
from tests.support import clips
from tests.support.program import Program

QUESTION = "Which object appears first?"


@pytest.fixture
def dry(ep: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """`dry(free, *options)`: the 7B's plan, as JSON, with so many bytes free: its memory."""
    monkeypatch.setattr(estimate, "resident", lambda: 0)
    film = clips.write(tmp_path / "film.mp4", clips.Film(seconds=5.0, fps=24, size=(240, 320)))

    def ask(free: int | None, *options: str) -> dict:  # type: ignore[type-arg]
        monkeypatch.setattr(estimate, "free_memory", lambda device: free)
        base = ("ask", film, QUESTION, "--dry-run", "--json", "--model", "qwen2.5-omni-7b", "--device", "cpu")
        done = ep(*base, "--fps", "24", "--keep", "1", *options)
        assert done.code == 0, done.err
        return json.loads(done.out)["memory_bytes"]  # type: ignore[no-any-return]

    return ask


def test_advice_that_is_followed_makes_it_fit(dry) -> None:  # type: ignore[no-untyped-def]
    whole = dry(None)
    assert whole["fits"] is None and whole["advice"] == []
    weights, peak = whole["weights"], whole["peak"]
    seen = set()
    for share in (0.9, 0.5):
        free = int(weights + share * (peak - weights))
        planned = dry(free)
        assert planned["fits"] is False and planned["advice"]
        for line in planned["advice"]:
            options, _ = line.split(":")
            assert "to spare" in line
            assert dry(free, *options.split())["fits"], (share, line)
            seen.add(options.split()[0])
    assert seen == {"--quant", "--keep", "--fps", "--max-pixels"}


def test_where_nothing_alone_is_enough_all_options_are_advised_together(dry) -> None:  # type: ignore[no-untyped-def]
    (line,) = dry(1_000_000_000)["advice"]
    assert "too much" in line and all(name in line for name in ("--quant nf4", "--keep 0.02", "--fps", "--max-pixels"))
    peak = float(re.findall(r"([\d.]+) GB", line)[0])
    followed = dry(1_000_000_000, *line.split(":")[0].split())
    assert followed["peak"] / 1e9 <= peak + 0.01


def test_fewer_tokens_are_advised_where_the_kept_ones_are_too_many(dry) -> None:  # type: ignore[no-untyped-def]
    options = ("--reducer", "full", "--device", "cuda")  # where patches wait on the host, the decoder is the largest
    full = dry(None, *options)
    assert full["peak"] == full["stages"]["prefill"]
    planned = dry(full["peak"] - 10_000_000, *options)
    assert any(line.startswith("--keep") and "--reducer uniform" in line for line in planned["advice"])


def test_the_mildest_change_comes_first() -> None:
    assert list(advice.KEEPS) == sorted(advice.KEEPS, reverse=True)
    assert list(advice.FEWER) == sorted(advice.FEWER)


def test_a_limit_of_the_control_group_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(estimate, "PROC", tmp_path)
    monkeypatch.setattr(estimate, "GROUP", tmp_path)
    assert estimate.free_memory(torch.device("cpu")) is None and estimate.resident() == 0
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    assert estimate.free_memory(torch.device("cpu")) == 4000 * 1024
    files = {"memory.max": "max\n", "memory.current": "1000000\n", "memory.stat": "anon 5\ninactive_file 500000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert estimate.free_memory(torch.device("cpu")) == 4000 * 1024
    (tmp_path / "memory.max").write_text("2000000\n")
    assert estimate.free_memory(torch.device("cpu")) == 1_500_000
