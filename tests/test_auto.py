"""Keeping as many tokens as it takes: how many that is, for whom, and who cannot."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from echoingpixels.auto import LEAST, MOST, beyond, enough, mass_for
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.evaluate import Setting, settings
from echoingpixels.model import EchoingPixels
from echoingpixels.options import REDUCER_NAMES, AskOptions, Auto, keep_name, plain_keep, read_keep
from echoingpixels.sieve import SieveOptions
from echoingpixels.stream import Stream, budget, pad
from tests import tinymodel
from tests.test_reducers import rows

TABLE = ((0.4, 0.1), (0.8, 0.5), (0.95, 0.7), (1.01, 0.99))
QUALITIES = (0.1, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)


def model(form: str = "extractive") -> EchoingPixels:
    """The random model with a calibrated sieve, whose scores differ enough for that."""
    return tinymodel.model(form=form, auto=TABLE, tau=0.3)


@torch.no_grad()
def chosen(stream: Stream, quality: float) -> Tensor:
    return model().select(stream, "cs2", Auto(quality)).keep


def test_a_keep_is_written_as_it_is_read() -> None:
    for text, keep in (("0.2", 0.2), ("auto:0.9", Auto(0.9)), ("auto:1", Auto(1.0))):
        assert read_keep(text) == keep and keep_name(keep) == text
    assert read_keep(" auto") == Auto() and plain_keep(Auto(0.5)) == "auto:0.5" and plain_keep(0.5) == 0.5
    for text in ("", "few", "auto:", "automatic", "auto:much"):
        with pytest.raises(ValueError):
            read_keep(text)
    for text in ("0", "1.1", "auto:0", "auto:1.1", "auto:nan"):
        with pytest.raises(OptionError, match="outside"):
            read_keep(text)


@pytest.mark.parametrize(
    ("quality", "mass"), [(0.1, 0.1), (0.4, 0.1), (0.6, 0.3), (0.8, 0.5), (0.875, 0.6), (0.95, 0.7), (0.98, 0.845)]
)
def test_between_the_tables_entries_the_mass_is_linear_and_beyond_them_the_nearest(quality: float, mass: float) -> None:
    assert mass_for(TABLE, Auto(quality)) == pytest.approx(mass)
    said = beyond(TABLE, Auto(quality))
    assert (said is None) == (quality >= 0.4)
    assert said is None or ("auto:0.1 is outside" in said and "taken as 0.4" in said)


@pytest.mark.parametrize(
    "table", [(), ((0.5, 0.5), (0.4, 0.6)), ((0.5, 0.5), (0.6, 0.5)), ((0.5, 1.2),), ((0.5, -0.1),)]
)
def test_a_table_that_does_not_rise_is_refused(table: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(OptionError, match="ascending"):
        SieveOptions(auto=table)


def slow_k(shares: list[float], mass: float) -> int:
    """Take the largest until there is enough; then the bounds, as every budget is rounded."""
    taken, reached = 0, 0.0
    for share in sorted(shares, reverse=True):
        if reached >= mass:
            break
        taken, reached = taken + 1, reached + share
    n = torch.ones(1, len(shares), dtype=torch.bool)
    return min(max(taken, int(budget(n, LEAST))), int(budget(n, MOST)))


@pytest.mark.parametrize("mass", [0.0, 0.05, 0.3, 0.6, 0.9, 1.0])
def test_enough_is_the_least_number_that_reaches_the_mass_within_bounds(mass: float) -> None:
    scores = 3 * torch.randn(3, 120, generator=torch.Generator().manual_seed(5))
    pool = torch.ones(3, 120, dtype=torch.bool)
    pool[1, :70] = False
    pool[2] = False
    shares = torch.where(pool, scores.masked_fill(~pool, -1e9).softmax(1), 0.0)
    found = enough(shares, pool, mass).tolist()
    assert found == [slow_k(shares[0].tolist(), mass), slow_k(shares[1, 70:].tolist(), mass), 0]


@torch.no_grad()
def test_a_row_of_a_batch_keeps_what_it_keeps_alone() -> None:
    single = rows()
    together = pad(single)
    for quality in QUALITIES:
        kept = chosen(together, quality)
        for i, row in enumerate(single):
            assert torch.equal(kept[i][together.mask[i]], chosen(row, quality)[0])
        taken = together.take(model().select(together, "cs2", Auto(quality)))
        assert (taken.mask & ~taken.pool).sum(1).tolist() == (together.mask & ~together.pool).sum(1).tolist()


def test_more_quality_never_keeps_fewer_and_what_was_kept_stays() -> None:
    stream = pad(rows())
    kept = [chosen(stream, quality) for quality in QUALITIES]
    for fewer, more in pairwise(kept):
        assert not bool((fewer & ~more).any())
    counts = [(one & stream.pool).sum(1).tolist() for one in kept]
    assert len({tuple(count) for count in counts}) > 3, "the scores make a difference"


def test_what_is_kept_lies_between_the_bounds_and_is_the_same_every_time() -> None:
    stream = pad(rows())
    least, most = budget(stream.pool, LEAST), budget(stream.pool, MOST)
    for quality in QUALITIES:
        k = (chosen(stream, quality) & stream.pool).sum(1)
        assert bool(((least <= k) & (k <= most)).all())
        assert torch.equal(chosen(stream, quality), chosen(stream, quality))


@torch.no_grad()
def test_the_best_scores_are_kept_in_either_form() -> None:
    stream = rows()[0]
    for form in ("fused", "extractive"):
        selection = model(form).select(stream, "cs2", Auto(0.8))
        assert selection.scores is not None and (selection.fused is not None) == (form == "fused")
        kept = selection.keep & stream.pool
        assert selection.scores[kept].min() >= selection.scores[stream.pool & ~kept].max()


def test_other_reducers_cannot_say_how_many_are_enough() -> None:
    for name in set(REDUCER_NAMES) - {"cs2"}:
        with pytest.raises(OptionError, match="cs2 alone") as error:
            AskOptions(name, Auto())
        assert name in error.value.message
        with pytest.raises(OptionError):
            model().select(rows()[0], name, Auto())
    with pytest.raises(OptionError, match="cs2 alone"):
        settings(["cs2", "uniform"], [Auto(), 0.2])
    assert settings(["full", "cs2"], [Auto(), 0.2]) == [
        *(Setting("full", 1.0), Setting("cs2", Auto())),
        Setting("cs2", 0.2),
    ]


def test_a_sieve_without_calibration_says_what_to_do() -> None:
    bare = tinymodel.model()
    with pytest.raises(ModelError, match="not calibrated") as error:
        bare.select(rows()[0], "cs2", Auto())
    assert "ep calibrate" in error.value.hint
    with pytest.raises(ModelError, match="no sieve weights"):
        EchoingPixels(bare.backbone).check("cs2", Auto())


def test_a_prompt_without_media_is_left_alone() -> None:
    stream = tinymodel.text_stream(tinymodel.backbone())
    assert bool(chosen(stream, 0.5).all())
