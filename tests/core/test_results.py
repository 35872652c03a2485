"""tools/results: every cell of docs/results.md is measured once, and the page is made of cells alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echoingpixels.datasets.questions import read_rows
from echoingpixels.evaluation.evaluate import evaluate
from echoingpixels.features.cache import FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import AUDIO, TEXT, VIDEO
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.pick import TopK
from echoingpixels.reducers.registry import REDUCERS
from echoingpixels.reducers.setting import Setting
from tests.support import tinymodel
from tools import check_prose
from tools.results import evidence, measure, page, plan, sieves
from tools.results.figures import Figures, points
from tools.results.plan import Cell, QuestionSet
from tools.results.store import Answered, Store

README = Path(__file__).parents[2] / "README.md"
CELLS = plan.cells(["v1"], ["full"], [1.0]) + plan.cells(["v1"], ["uniform", "cs2", "cs2-maxmin"], [0.1, 0.02])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Six questions about two clips, answered for CELLS."""
    store = Store(tmp_path_factory.mktemp("results"), most=6)
    before = plan.SETS["v1"]
    plan.SETS["v1"] = QuestionSet("v1", 2, 5, ("balanced", "listen"))
    measure.measure(store, CELLS)
    yield store
    plan.SETS["v1"] = before


def test_cells_hold_the_answers_of_a_plain_evaluation(made: Store) -> None:
    settings = [Setting(cell.reducer, cell.keep) for cell in CELLS]
    cache = FeatureCache(made.folder / "features")
    rows = read_rows(made.questions("v1"))
    for cell, run in zip(CELLS, evaluate(load("tiny", reuse=None), rows, settings, cache=cache), strict=True):
        found = made.get(cell)
        assert found is not None and len(rows) == len(found.right) > 3
        assert found.right == tuple(one.right for one in run.outcomes)
        assert sum(found.audio) == run.tokens.audio.after and sum(found.video) == run.tokens.video.after


def test_what_is_stored_is_not_measured_again_and_an_interrupted_cell_is_continued(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def counted(model: object, rows: list[object], settings: list[Setting], *more: object, **options: object) -> object:
        asked.extend((setting.reducer, len(rows)) for setting in settings)
        return evaluate(model, rows, settings, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "evaluate", counted)
    monkeypatch.setattr(measure, "SLICE", 3)
    measure.measure(made, CELLS)
    assert asked == []
    cell, whole = CELLS[1], made.get(CELLS[1])
    assert whole is not None
    made.put(cell, whole.first(3))
    assert made.get(cell) is None
    measure.measure(made, CELLS)
    again = made.get(cell)
    assert asked == [("uniform", len(whole.right) - 3)]
    assert again is not None and (again.right, again.audio) == (whole.right, whole.audio)


def test_a_cell_is_filed_under_all_that_its_answers_depend_on(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {made.file(cell) for cell in CELLS}
    assert len(names) == len(CELLS)
    cell = next(cell for cell in CELLS if cell.reducer == "cs2")
    other = made.file(replace(cell, sieve=plan.FUSED))
    assert other not in names and made.file(replace(cell, reducer="full", keep=1.0, sieve=plan.FUSED)) in names
    with measure.shared_scores():
        assert made.file(cell) in names
    monkeypatch.setitem(REDUCERS, "cs2", replace(REDUCERS["cs2"], pick=replace(REDUCERS["cs2"].pick)))
    assert made.file(cell) in names
    monkeypatch.setitem(REDUCERS, "cs2", replace(REDUCERS["cs2"], budget=REDUCERS["maxmin-floors"].budget))
    assert made.file(cell) not in names and isinstance(REDUCERS["cs2"].pick, TopK)


def test_a_score_is_computed_once_for_all_reducers_and_ratios_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tinymodel.model()
    streams = [tinymodel.stream(model.backbone, seconds) for seconds in (2.0, 3.0)]
    chosen = [(name, keep) for name in ("cs2", "cs2-maxmin") for keep in (0.2, 0.05)]
    plain = [model.select(stream, name, keep).keep for stream in streams for name, keep in chosen]
    before, calls = dict(REDUCERS), []
    score = REDUCERS["cs2"].scorer
    counted = replace(score, score=lambda *inputs: calls.append(inputs) or score.score(*inputs))  # type: ignore[func-returns-value]
    for name in ("cs2", "cs2-maxmin"):
        monkeypatch.setitem(REDUCERS, name, replace(REDUCERS[name], scorer=counted))
    with measure.shared_scores():
        copies = [replace(stream, embeds=stream.embeds.clone()) for stream in streams]
        shared = [model.select(stream, name, keep).keep for stream in copies for name, keep in chosen]
    assert len(calls) == len(streams) and all(map(torch.equal, plain, shared))
    assert all(REDUCERS[name] is before[name] for name in before if "cs2" not in name)


def answered(store: Store, cell: Cell, right: list[bool | None], audio: list[int]) -> None:
    store.put(cell, Answered(tuple(right), tuple(10 - n for n in audio), tuple(audio), 1.0, {"date": "2026-01-01"}))


def questions(store: Store, name: str, regimes: list[str]) -> None:
    path = store.questions(name)
    path.parent.mkdir(parents=True)
    rows = [
        {"id": str(i), "media": f"{i // 2}.mp4", "question": "Who?", "answer": "cat", "kind": "where", "regime": regime}
        for i, regime in enumerate(regimes)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (path.parent / row["media"]).touch()


def test_figures_of_two_sets_are_those_of_their_questions_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    questions(store, "v1", ["balanced"] * 3 + ["watch"])
    questions(store, "busy", ["busy"] * 2)
    marks = {"v1": ([True, True, False, None], [4, 4, 4, 0]), "busy": ([False, True], [1, 2])}
    for name, (right, audio) in marks.items():
        answered(store, Cell(name, "full", 1.0), [None if one is None else True for one in right], [5] * len(right))
        answered(store, Cell(name, "uniform", 0.1), right, audio)
    figures, cell, full = Figures(store), Cell("", "uniform", 0.1), Cell("", "full", 1.0)
    both = figures.share(cell, plan.BOTH)
    assert both is not None and (both.difference, both.questions, both.failed) == (0.6, 6, 1)
    lost = figures.paired(cell, full, ["busy"])
    assert lost is not None and points(lost) == "−50.0" and points(None) == "–"
    assert figures.audio(cell, plan.BOTH) == 15 / 60
    assert figures.audio(cell, ["v1"], lambda row: row.regime == "balanced") == 12 / 30
    assert figures.kept(cell, plan.BOTH) == 60 / 60
    assert figures.lesser(cell, plan.BOTH) == [(4, 10), (4, 10), (4, 10), (0, 10), (1, 10), (2, 10)]
    answered(store, Cell("v1", UNSIEVED, 0.05), [True] * 4, [4, 4, 4, 0])
    assert page.floors(figures) == "–"
    answered(store, Cell("busy", UNSIEVED, 0.05), [True] * 2, [1, 2])
    told = "in 4 of 6 questions whose clip has both; in the others, one modality has at most 1 kept"
    assert page.floors(figures) == told
    assert figures.share(Cell("", "cs2", 0.1), plan.BOTH) is None
    assert "| all tokens | 100.0 |" in page.accuracy(figures, plan.BOTH)
    readme = page.readme(store, README.read_text(encoding="utf-8"))
    assert "answers to 6 questions" in readme and "| `uniform` | 100.0 | – | 60.0 | – | – |" in readme
    assert page.readme(store, readme) == readme and readme.endswith(README.read_text(encoding="utf-8")[-500:])
    assert "| `uniform` |  | – | 60.0 (0.600) | – | – | – |" in page.accuracy(figures, plan.BOTH)


def test_the_page_of_a_model_that_was_not_measured_has_no_figures_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    text = page.render(store, evidence.fields(store))
    assert not list(check_prose.long_lines(text)) and "{{" not in text
    assert "| `maxmin` |  | – | – | – | – | – |" in text
    with pytest.raises(KeyError, match="no place for surplus"):
        page.render(store, evidence.fields(store) | {"surplus": ""})
    readme = README.read_text(encoding="utf-8")
    assert page.readme(store, readme) == readme


def test_a_token_is_on_the_evidence_during_the_sound_or_in_the_corner_of_the_object() -> None:
    stream = tinymodel.stream(tinymodel.backbone(), 3.0)
    cat = {"what": "cat", "start": 0.0, "end": 9.0, "corner": "top left"}
    events = [{"what": "dog"}, {"what": "bell", "start": 1.0, "end": 2.0}, cat]
    question = "Which object is visible when the bell plays?"
    hit = evidence.on(stream, *evidence.events_of({"question": question, "answer": "cat", "events": events}))
    kind, time, cell = stream.kind[0], stream.time[0], stream.cell[0]
    rows, columns = (cell[kind == VIDEO].amax(0) + 1).tolist()
    for i in range(len(kind)):
        corner = kind[i] == VIDEO and cell[i, 0] < rows / 2 - 0.5 and cell[i, 1] < columns / 2 - 0.5
        assert hit[i] == (corner or (kind[i] == AUDIO and 1 <= time[i] < 2))
    assert hit[kind == VIDEO].any() and hit[kind == AUDIO].any() and not hit[kind == TEXT].any()


def test_the_plain_variant_runs_with_other_rotary_sections_and_leaves_those_of_the_decoder() -> None:
    backbone = copy.deepcopy(tinymodel.backbone())
    pairs = sum(backbone.text.rotary_emb.mrope_section)
    sections = [1, 1, 1, pairs - 3]
    backbone.set_sections(sections)
    stream = tinymodel.stream(backbone, 2.0)
    with torch.no_grad():
        two, plain = (sieves.new(backbone, name) for name in ("two", "plain"))
        plain.load_state_dict(two.state_dict())
        assert not torch.equal(two.encode(stream), plain.encode(stream))
    assert backbone.text.rotary_emb.mrope_section == sections
