"""The queue and the inference thread: batches, cancellation, a full queue, and failures that affect one question."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.batching import Prompt
from echoingpixels.errors import OutOfMemoryError
from echoingpixels.inputs.prompt import Message
from echoingpixels.options import AskOptions, GenerateOptions
from echoingpixels.serving.engine import Event, InferenceEngine, Ticket
from echoingpixels.serving.metrics import Metrics
from echoingpixels.serving.refusals import Refused
from echoingpixels.serving.settings import Bounds
from tests.support import tinymodel
from tests.support.served import Slow, asked, leaving, served, video, waited

OPTIONS = AskOptions("uniform", 0.3, GenerateOptions(6), evidence=False)


class Held(Slow):
    """A slow model whose first batch waits until it is let go."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(tinymodel.model(), seconds)
        self.go, self.failures = threading.Event(), 0

    def stream(self, prompts: Any, options: Any, **more: Any) -> Iterator[Any]:
        if not self.batches:
            self.batches.append(len(prompts))
            assert self.go.wait(30)
            yield from self._model.stream(prompts, options, **more)
        else:
            yield from super().stream(prompts, options, **more)


class Asked:
    """A question in an engine, with its events."""

    def __init__(self, engine: InferenceEngine, text: str, options: AskOptions = OPTIONS) -> None:
        self.events: list[Event] = []
        self.ticket: Ticket = engine.admit(self.events.append)
        self.ticket.ask([Message("user", (text,))], options)

    def ended(self) -> bool:
        return bool(self.events) and not isinstance(self.events[-1], str)

    @property
    def text(self) -> str:
        return "".join(one for one in self.events if isinstance(one, str))


def started(model: Any, **bounds: Any) -> InferenceEngine:
    engine = InferenceEngine(lambda: model, Bounds(**bounds), Metrics())
    engine.start()
    assert waited(lambda: engine.state == "ready")
    return engine


@pytest.fixture
def held() -> Iterator[tuple[Held, InferenceEngine]]:
    """An engine whose first question waits, so that further ones wait together."""
    model = Held()
    engine = started(model, waiting=4, rows=3)
    yield model, engine
    model.go.set()
    engine.close()


def test_questions_that_wait_together_are_batches_of_equal_options(held: tuple[Held, InferenceEngine]) -> None:
    model, engine = held
    first = Asked(engine, "first")
    assert waited(lambda: model.batches == [1])
    drawn = AskOptions("uniform", 0.3, GenerateOptions(6, 0.5), evidence=False)
    short = AskOptions("uniform", 0.3, GenerateOptions(3), evidence=False)
    rest = [
        Asked(engine, "a"),
        Asked(engine, "b", short),
        Asked(engine, "c"),
        Asked(engine, "d", drawn),
    ]
    model.go.set()
    assert waited(lambda: all(one.ended() for one in (first, *rest)))
    assert model.batches == [1, 2, 1, 1]
    alone = tinymodel.model()
    for one, text in zip((first, rest[0], rest[2]), ["first", "a", "c"], strict=True):
        (answer,) = alone.answer([Prompt.of(alone, [Message("user", (text,))])], OPTIONS)
        assert one.text == answer.text == one.events[-1].text  # type: ignore[union-attr]
    assert waited(lambda: engine.open == 0)


def test_a_batch_has_no_more_rows_than_its_limit(held: tuple[Held, InferenceEngine]) -> None:
    model, engine = held
    every = [Asked(engine, "first")]
    assert waited(lambda: model.batches == [1])
    every += [Asked(engine, letter) for letter in "abcd"]
    model.go.set()
    assert waited(lambda: all(one.ended() for one in every))
    assert model.batches == [1, 3, 1]


def test_a_full_queue_refuses_with_the_seconds_to_wait(held: tuple[Held, InferenceEngine]) -> None:
    model, engine = held
    Asked(engine, "first")
    assert waited(lambda: model.batches == [1])
    waiting = [Asked(engine, letter) for letter in "abcd"]
    with pytest.raises(Refused) as refused:
        engine.admit(print)
    assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
    waiting[0].ticket.close()
    engine.admit(print).close()


def test_a_cancelled_question_is_dropped_before_its_batch(held: tuple[Held, InferenceEngine]) -> None:
    model, engine = held
    Asked(engine, "first")
    assert waited(lambda: model.batches == [1])
    gone, stays = Asked(engine, "a"), Asked(engine, "b")
    gone.ticket.close()
    model.go.set()
    assert waited(stays.ended)
    assert model.batches == [1, 1] and not gone.events


def test_a_cancelled_row_gets_nothing_more_and_a_batch_of_them_stops() -> None:
    model = Slow(tinymodel.model(), 0.05)
    engine = started(model)
    long = AskOptions("uniform", 0.3, GenerateOptions(200), evidence=False)
    every = [Asked(engine, "first", long)]
    assert waited(lambda: len(every[0].events) > 2)
    every += [Asked(engine, letter, long) for letter in "ab"]
    every[0].ticket.close()
    assert waited(lambda: len(every[1].events) > 2 and len(every[2].events) > 2)
    assert model.batches == [1, 2] and model.chunks < 100  # the first batch stopped early
    every[1].ticket.close()
    number = len(every[1].events)
    assert waited(lambda: len(every[2].events) > number + 5)
    assert len(every[1].events) == number
    every[2].ticket.close()
    chunks, last = model.chunks, Asked(engine, "next")
    assert waited(last.ended)
    assert model.batches == [1, 2, 1] and model.chunks < chunks + 20
    engine.close()


def test_a_batch_ends_with_the_last_question_that_is_not_cancelled(held: tuple[Held, InferenceEngine]) -> None:
    model, engine = held
    alone = tinymodel.model()
    prompts = [Prompt.of(alone, [Message("user", (text,))]) for text in ("a", "b")]
    whole, other = (answer.text for answer in alone.answer(prompts, OPTIONS, max_new_tokens=60))
    stop = next(letter for letter in whole if letter not in other)
    options = AskOptions("uniform", 0.3, GenerateOptions(400, stop=(stop,)), evidence=False)
    first = Asked(engine, "first")
    assert waited(lambda: model.batches == [1])
    stops, runs = Asked(engine, "a", options), Asked(engine, "b", options)
    steps: list[int] = []
    decode = tinymodel.backbone().decode

    def counted(*given: Any) -> Any:
        steps.append(len(steps))
        if len(steps) == 20:
            runs.ticket.close()
        return decode(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tinymodel.backbone(), "decode", counted)
        model.go.set()
        assert waited(lambda: first.ended() and stops.ended())
    assert model.batches == [1, 2] and 20 <= len(steps) < 100
    assert stops.text == whole.partition(stop)[0] and runs.ticket.cancelled


class Failing(Held):
    """A model that runs out of memory for batches of several rows, and fails for one question."""

    def stream(self, prompts: Any, options: Any, **more: Any) -> Iterator[Any]:
        if len(prompts) > 1:
            raise OutOfMemoryError("Memory ran out.", "Use less.")
        if prompts[0].question == "bad":
            raise RuntimeError("boom\nboom")
        yield from super().stream(prompts, options, **more)


def test_a_batch_that_fails_is_answered_one_by_one_and_one_failure_is_one_error() -> None:
    model = Failing()
    engine = started(model)
    oom: list[bool] = []
    engine.settled = oom.append
    every = [Asked(engine, "first")]
    assert waited(lambda: model.batches == [1])
    every += [Asked(engine, text) for text in ("a", "bad", "c")]
    model.go.set()
    assert waited(lambda: all(one.ended() for one in every))
    assert [isinstance(one.events[-1], Exception) for one in every] == [False, False, True, False]
    assert "RuntimeError: boom." in str(every[2].events[-1])
    assert True in oom and engine.state == "ready" and waited(lambda: engine.open == 0)
    engine.close()


def test_a_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    model = Failing()
    engine = started(model)
    failed = Asked(engine, "bad")
    assert waited(failed.ended)
    assert "RuntimeError: boom" in caplog.text and "in stream" in caplog.text
    engine.close()


def test_a_model_that_cannot_be_loaded_is_reported() -> None:
    def load() -> Any:
        raise OutOfMemoryError("Memory ran out.", "Use less.")

    failed = threading.Event()
    engine = InferenceEngine(load, Bounds(), Metrics(), failed=failed.set)
    engine.start()
    assert failed.wait(10) and isinstance(engine.failure, OutOfMemoryError)
    with pytest.raises(Refused) as refused:
        engine.admit(print)
    assert refused.value.status == 503


def test_a_closed_engine_ends_every_open_question() -> None:
    model = Held()
    engine = started(model)
    first = Asked(engine, "first")
    assert waited(lambda: model.batches == [1])
    second = Asked(engine, "second")
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert waited(lambda: first.ended() and second.ended())
    model.go.set()
    closing.join(10)
    assert not closing.is_alive() and "shutting down" in str(second.events[-1])
    for refused in (lambda: engine.admit(print), lambda: engine.call(id)):
        with pytest.raises(Refused) as error:
            refused()
        assert error.value.status == 503


def test_a_full_queue_is_429_for_clients_and_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    model = Held(0.01)
    with served(tmp_path, lambda: model, bounds=Bounds(waiting=1)) as live:  # type: ignore[arg-type,return-value]
        done: list[int] = []
        first = threading.Thread(target=lambda: done.append(live.ask("Who?").status_code))
        first.start()
        assert waited(lambda: bool(model.batches))
        leaves = leaving(live, asked("Who?"))
        assert waited(lambda: live.server.engine.open == 2)
        full = live.ask("Who?")
        assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
        assert full.headers["retry-after"].isdigit()
        leaves.close()
        assert waited(lambda: live.server.engine.open == 1)
        model.go.set()
        first.join()
        assert done == [200] and live.idle()
        assert live.metric('ep_requests_total{outcome="refused"}') == 1
        assert live.metric('ep_requests_total{outcome="cancelled"}') == 1
        assert live.metric('ep_requests_total{outcome="answered"}') == 1


def test_clips_in_memory_stay_below_the_limit(tmp_path: Path, shorts: list[Path]) -> None:
    model = tinymodel.model()
    limit = int(2.5 * model.encode(shorts[5]).held_bytes)
    bounds = Bounds(clips=limit)
    with served(tmp_path, lambda: model, roots=(shorts[0].parent,), bounds=bounds) as live:
        for path in (*shorts, *shorts):
            assert live.ask(video(path), "Who?").status_code == 200
            assert waited(lambda: live.server.engine.open == 0)
            assert 0 < live.metric("ep_clip_bytes") <= limit
        assert live.metric('ep_clips_total{source="encoded"}') > 6
        assert live.ask(video(shorts[5]), "Who?").json()["usage"]["prompt_tokens_details"]["cached"]


def test_a_kv_prefix_counts_and_is_reused(tmp_path: Path, shorts: list[Path]) -> None:
    with served(tmp_path, tinymodel.model, roots=(shorts[0].parent,)) as live:
        sizes = []
        for text in ("Who?", "Where?", "When?"):
            assert live.ask(video(shorts[0]), text, reducer="uniform").status_code == 200
            assert waited(lambda: live.server.engine.open == 0)
            sizes.append(live.metric("ep_clip_bytes"))
        features = tinymodel.model().encode(shorts[0]).held_bytes
        assert sizes[0] == sizes[1] == sizes[2] > features
        live.server.clips._bounds = replace(live.server.clips._bounds, clips=features)
        live.server.clips.trim()  # the prefix goes first
        assert live.metric("ep_clip_bytes") == features


def test_a_clip_in_memory_does_not_wait_for_the_reading_of_others(
    tmp_path: Path, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = Bounds(readers=2, workers=2)
    with served(tmp_path, tinymodel.model, roots=(shorts[0].parent,), bounds=bounds) as live:
        first = live.ask(video(shorts[0], uuid="a"), "Who?").json()["choices"]
        go, read = threading.Event(), live.server.clips._readers.read

        def slow(*given: Any) -> Any:
            assert go.wait(30)
            return read(*given)

        monkeypatch.setattr(live.server.clips._readers, "read", slow)
        done: list[int] = []
        threads = [
            threading.Thread(target=lambda path=path: done.append(live.ask(video(path), "Who?").status_code))
            for path in shorts[1:4]
        ]
        for thread in threads:
            thread.start()
        assert waited(lambda: len(live.server.clips._flights) == 2)
        for clip in (video(shorts[0]), video("https://not.read/", uuid="a")):
            assert live.ask(clip, "Who?").json()["choices"] == first
        assert not done
        go.set()
        for thread in threads:
            thread.join()
        assert done == [200, 200, 200]


def test_clients_that_ask_about_one_clip_share_its_reading_also_if_the_first_leaves(
    tmp_path: Path, shorts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path, tinymodel.model, roots=(shorts[0].parent,)) as live:
        go, read, reads = threading.Event(), live.server.clips._readers.read, []

        def slow(found: Any, *more: Any) -> Any:
            reads.append(found)
            assert go.wait(30)
            return read(found, *more)

        monkeypatch.setattr(live.server.clips._readers, "read", slow)
        done: list[int] = []
        leaves = leaving(live, asked(video(shorts[0]), "Who?"))
        assert waited(lambda: len(reads) == 1)
        threads = [
            threading.Thread(target=lambda: done.append(live.ask(video(shorts[0]), "Who?").status_code))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert waited(lambda: live.server.engine.open == 3)
        leaves.close()
        assert waited(lambda: live.server.engine.open == 2)
        assert len(reads) == 1
        go.set()
        for thread in threads:
            thread.join()
        assert done == [200, 200] and len(reads) == 2  # one of the others read it again, for both
        assert live.metric('ep_clips_total{source="encoded"}') == 1 and not live.server.clips._flights
