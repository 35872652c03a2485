"""The automatic keep ratio: its number of tokens, and the models and reducers that lack it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from echoingpixels.errors import ModelError, OptionError
from echoingpixels.inputs.positions import AUDIO
from echoingpixels.inputs.token_stream import TokenStream, budget, pad
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions, Auto, keep_name, plain_keep, read_keep
from echoingpixels.reducer_names import REDUCER_NAMES
from echoingpixels.reducers.adaptive import LEAST, MOST, RATIOS, Enough, beyond, features
from echoingpixels.reducers.cs2 import SieveOptions
from echoingpixels.reducers.setting import Setting, settings
from tests.reducers.test_reducers import rows
from tests.support import tinymodel
from tests.support.live import Live

TABLE = ((0.4, 8.0), (0.8, 2.0), (0.95, 1.0), (1.01, 0.1))
QUALITIES = (0.1, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)


def calibration(width: int) -> Enough:
    """One by which sound and spread scores take more tokens; `width` is that of the embeddings."""
    nothing = (0.0,) * width
    return Enough((2.5, *nothing, -1.0, 0.5), (1.2, *nothing, 0.8, -0.4), -0.05, TABLE)


def model(form: str = "extractive") -> EchoingPixels:
    """The random model with a calibrated sieve, whose scores differ enough for that."""
    width = tinymodel.backbone().shape.width
    return tinymodel.model(form=form, auto=calibration(width), tau=0.3)


@torch.no_grad()
def chosen(stream: TokenStream, quality: float) -> Tensor:
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
    ("quality", "price"),
    [(0.1, 8.0), (0.4, 8.0), (0.6, 4.0), (0.8, 2.0), (0.875, math.sqrt(2)), (0.95, 1.0), (1.0, 0.146779)],
)
def test_between_the_tables_entries_prices_are_geometric_and_beyond_them_the_nearest(
    quality: float, price: float
) -> None:
    assert calibration(3).price(Auto(quality)) == pytest.approx(price, rel=1e-4)
    warning = beyond(TABLE, Auto(quality))
    assert (warning is None) == (quality >= 0.4)
    assert warning is None or ("auto:0.1 is outside" in warning and "0.4 is used" in warning)


@pytest.mark.parametrize(
    "table", [(), ((0.5, 2.0), (0.4, 1.0)), ((0.5, 1.0), (0.6, 1.0)), ((0.5, 1.0), (0.6, 0.0)), ((0.5, -0.1),)]
)
def test_a_table_that_does_not_rise_while_prices_fall_is_refused(table: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(OptionError, match="ascending"):
        SieveOptions(auto=Enough((0.0,), (0.0,), 0.0, table))


def slow_ratio(enough: Enough, known: list[float], price: float) -> float:
    """Try every ratio."""

    def gain(ratio: float) -> float:
        x, values = math.log(ratio), [1.0, *known]
        level, slope = (sum(a * b for a, b in zip(one, values, strict=True)) for one in (enough.level, enough.slope))
        return 1 / (1 + math.exp(-(level + x * slope + x * x * enough.curve))) - price * ratio

    return max(RATIOS, key=gain)


@pytest.mark.parametrize("price", [0.01, 0.3, 1.0, 3.0, 100.0])
def test_the_ratio_is_the_one_whose_chance_is_worth_its_price_most(price: float) -> None:
    known = torch.randn(40, 5, generator=torch.Generator().manual_seed(5))
    enough = Enough((1.0, 0.5, -1, 0.3, 0, 0.2), (0.8, 0.1, 0.4, -0.2, 0.3, 0), -0.1, TABLE)
    found = enough.ratios(known, price)
    assert found == [slow_ratio(enough, row, price) for row in known.tolist()]
    assert len(set(found)) > (1 if 0.1 < price < 10 else 0)


@torch.no_grad()
def test_features_are_what_is_asked_and_where_the_scores_lie() -> None:
    one = model()
    stream = rows()[0]
    selection = one.select(stream, "cs2", 0.2)
    assert one.sieve is not None and selection.scores is not None
    shares = one.sieve.shares(selection.scores, stream.pool)
    known = features(stream, shares)[0]
    last = int(stream.pool[0].nonzero()[-1])
    torch.testing.assert_close(known[:-2], stream.embeds[0, last + 1 :].float().mean(0))
    assert float(known[-2]) == pytest.approx(float(shares[0][stream.kind[0] == AUDIO].sum()), abs=1e-5)
    entropy = -sum(share * math.log(share) for share in shares[stream.pool].tolist() if share > 0)
    assert float(known[-1]) == pytest.approx(math.exp(entropy) / int(stream.pool.sum()), rel=1e-4)


@torch.no_grad()
def test_features_need_no_second_copy_of_the_stream() -> None:
    stream = rows()[0]
    half = replace(stream, embeds=stream.embeds.bfloat16())
    with Live() as live:
        features(half, half.pool.float())
    assert live.peak < half.embeds.nbytes, "twice in float32 before: four times as much"


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
