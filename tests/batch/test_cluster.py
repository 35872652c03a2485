"""The same batch on a real local Ray: the same rows, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from echoingpixels.batch import cluster
from echoingpixels.batch.job import Job, Task, make_job
from echoingpixels.batch.journal import Journal
from echoingpixels.batch.run import run
from echoingpixels.from_pretrained import load
from echoingpixels.options import AskOptions, GenerateOptions, LoadOptions, MediaOptions
from tests.support import clips
from tests.support.batches import rows, tasks
from tests.support.program import Program

QUESTIONS = ("Which object appears first?", "Is the bell heard?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of one second, and one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(12):
        track = clips.Track(clips.beep(1.0, 0.05 * i))
        clips.write(folder / f"{i:02}.mp4", clips.Film(seconds=1.0, tracks=(track,)))
    (folder / "bad.mp4").touch()
    return folder


@pytest.fixture
def job() -> Job:
    options = AskOptions(generate=GenerateOptions(max_new_tokens=3))
    return make_job("tiny", LoadOptions(device="cpu"), MediaOptions(), options)


def asked(folder: Path) -> list[Task]:
    return tasks(*sorted(folder.iterdir()), questions=QUESTIONS)


def said(out: Path) -> dict[tuple[str, str], Any]:
    found = rows(out)
    by_key = {(row["key"], row["id"]): (row["answer"], row["kept_ratio"], row["error"]) for row in found}
    assert len(by_key) == len(found), "a row is doubled"
    return by_key


def children(name: str) -> list[int]:
    """Ray's workers of one kind, which it names after what they do."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_text()
            except OSError:
                continue
            if title.startswith("ray::") and name in title and "IDLE" not in title:
                found.append(int(entry.name))
    return found


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray itself uses what it calls deprecated
@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_costs_no_row(folder: Path, job: Job, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="it would have proved that a worker's death loses and doubles nothing")
    ids = {str(path) for path in folder.iterdir()}
    with Journal(tmp_path / "local.jsonl", ids) as journal:
        run(job, asked(folder), journal, lambda: load("tiny", device="cpu"))
    killed: list[int] = []

    def kill(_: Any) -> None:
        if not killed:
            killed.extend(children("MapWorker")[:1])
            for process in killed:
                os.kill(process, signal.SIGKILL)

    out = tmp_path / "ray.jsonl"
    with Journal(out, ids) as journal:
        tally = cluster.run_ray(job, asked(folder), journal, workers=2, on_results=kill)
    assert killed and (tally.answered, tally.failed) == (24, 2)
    assert said(out) == said(tmp_path / "local.jsonl")
    with Journal(out, ids, resume=True, retry=False) as journal:
        again = cluster.run_ray(job, asked(folder), journal, workers=1)
    assert (again.skipped, again.answered) == (26, 0)


def test_what_a_worker_does_is_what_the_local_engine_does(
    folder: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's two kinds of workers, here without Ray between them."""

    def near(job: Job, asked: list[Task], *_: Any, **__: Any) -> Any:
        decode, answer = cluster.Decode(job, "."), cluster.Answer(job, ".")
        blocks = [asked[i : i + cluster.CLIPS] for i in range(0, len(asked), cluster.CLIPS)]
        for block in blocks:
            opened = [decode({"task": cluster.pickle.dumps(task)})["opened"] for task in block]
            for results in answer({"opened": opened})["results"]:
                yield cluster.pickle.loads(results)
                yield cluster.pickle.loads(results)  # a block that Ray made twice
        decode.opener.close()

    monkeypatch.setattr(cluster, "_answers", near)
    monkeypatch.setattr(cluster, "_cluster", lambda *_: nullcontext(0))
    ids = {str(path) for path in folder.iterdir()}
    with Journal(tmp_path / "local.jsonl", ids) as journal:
        run(job, asked(folder), journal, lambda: load("tiny", device="cpu"))
    with Journal(tmp_path / "ray.jsonl", ids) as journal:
        tally = cluster.run_ray(job, asked(folder)[:5], journal)
    assert (tally.answered, tally.failed) == (10, 0)
    with Journal(tmp_path / "ray.jsonl", ids, resume=True) as journal:
        tally = cluster.run_ray(job, asked(folder), journal)
    assert (tally.skipped, tally.answered, tally.failed) == (10, 14, 2)
    assert said(tmp_path / "ray.jsonl") == said(tmp_path / "local.jsonl")


def test_without_ray_the_extra_is_named(
    folder: Path, ep: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = ep("batch", folder, "--question", "Who?", "--out", tmp_path / "out.jsonl", "--engine", "ray")
    assert done.code == 1 and "echoingpixels[ray]" in done.err
    assert not (tmp_path / "out.jsonl").exists()
