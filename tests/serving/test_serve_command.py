"""`ep serve`: its options, how it starts, and how it stops."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from echoingpixels import serving
from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.errors import ModelError, OptionError
from echoingpixels.features.cache import FeatureCache
from echoingpixels.model import EchoingPixels
from echoingpixels.options import AskOptions
from echoingpixels.planning import doctor
from echoingpixels.serving.server import Server, hosts_of, listen
from echoingpixels.serving.settings import Settings
from epcli.commands.serve import keys_in, size_of
from tests.support import tinymodel
from tests.support.program import Program
from tests.support.served import Slow, health, program, served, video, waited

DEMO = ASSETS / "demo.mp4"
QUESTION = "Which object is visible when the bell plays?"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--host", "0.0.0.0"), 2, "there is no API key"),
        (("--host", "::"), 2, "there is no API key"),
        (("--host", "example.com"), 2, "there is no API key"),
        (("--allow-url", "example.com"), 2, "not a pattern of URLs"),
        (("--media-root", "/not/there"), 2, "not a folder"),
        (("--max-upload", "much"), 2, "not a size"),
        (("--max-queue", "0"), 2, "--max-queue"),
        (("--port", "70000"), 2, "--port"),
        (("--keep", "0"), 2, "keep is 0"),
        (("--api-key-file", "/not/there"), 1, "cannot be read"),
        (("--model", "tiny", "--reducer", "cs2", "--sieve", "none"), 1, "cs2"),
        (("--model", "/not/there"), 1, "/not/there"),
    ],
)
def test_wrong_options_are_one_line_and_a_hint(ep: Program, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = ep("serve", *arguments)
    first, hint = done.err.splitlines()
    assert done.code == code and told in first and hint.startswith("hint: ")


def test_a_port_in_use_is_an_error(ep: Program) -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        done = ep("serve", "--model", "tiny", "--port", taken.getsockname()[1])
    assert done.code == 1 and "cannot be opened: address already in use" in done.err


def test_a_missing_package_names_the_extra(ep: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    find = serving.find_spec
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    done = ep("serve")
    assert done.code == 1 and done.err.splitlines() == [
        "error: ep serve needs the package uvicorn.",
        "hint: Install it with `pip install 'echoingpixels[serve]'`.",
    ]


def test_the_doctor_checks_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = doctor.checked("server", doctor.CHECKS["server"])
    assert whole.state == "ok" and "fastapi" in whole.seen
    version = doctor.metadata.version

    def missing(name: str) -> str:
        if name == "uvicorn":
            raise doctor.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", missing)
    (lacking,) = doctor.checked("server", doctor.CHECKS["server"])
    assert (lacking.state, lacking.seen, lacking.needed) == ("missing", "uvicorn not installed", False)
    assert "echoingpixels[serve]" in lacking.hint


def test_the_doctor_and_the_server_name_the_same_packages() -> None:
    assert set(doctor.SERVER) == set(serving.PACKAGES)


def test_hosts() -> None:
    assert hosts_of("127.0.0.1", (), False) == {"localhost", "127.0.0.1", "::1"}
    assert hosts_of("::1", (), False) is not None and hosts_of("localhost", (), False) is not None
    assert hosts_of("127.0.0.1", ("key",), False) is None  # behind a proxy, with any name
    assert hosts_of("0.0.0.0", ("key",), False) is None and hosts_of("0.0.0.0", (), True) is None
    with pytest.raises(OptionError):
        hosts_of("192.168.0.1", (), False)


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1GiB", 2**30), ("1.5K", 1500), ("12", 12)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text, "--max-upload") == size


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# clients\nfirst-key\n\n  second-key \n")
    assert keys_in(file) == ("first-key", "second-key")
    for text in ("", "# none\n", "short\n", "with spaces inside\n", "schlüssel-mit-umlaut\n"):
        file.write_text(text)
        with pytest.raises(Exception, match=str(file)):
            keys_in(file)


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    def load() -> EchoingPixels:
        raise ModelError("The weights are gone.", "Find them.")

    server = Server(Settings("random", tmp_path), load)
    with listen("127.0.0.1", 0) as listening, pytest.raises(ModelError, match="weights are gone"):
        server.run(listening)


def test_the_bundled_model_answers_as_ep_ask_does(tmp_path: Path, tiny_model: EchoingPixels, ep: Program) -> None:
    asked = ep("ask", DEMO, QUESTION, "--model", "tiny", "--json", "--no-cache")
    with served(tmp_path, lambda: tiny_model, model="tiny", ask=AskOptions(), roots=(DEMO.parent,)) as live:
        got = live.ask(video(DEMO), QUESTION, model="tiny").json()
        own = json.loads(asked.out)
        assert got["choices"][0]["message"]["content"] == own["answer"] == "cake"
        assert got["ep"]["evidence"] == own["evidence"] and got["ep"]["reducer"] == own["reducer"] == "cs2-maxmin"
        assert got["usage"]["prompt_tokens_details"]["video_tokens"] == own["tokens"]["video"]
        assert "CACHED" not in got["ep"]["notes"]
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"hello world " * 50)
        refused = ep("ask", broken, QUESTION, "--model", "tiny")
        upload = live.post("/v1/files", files={"file": ("broken.mp4", broken.read_bytes())}).json()
        (message, hint) = (line.partition(": ")[2] for line in refused.err.splitlines())
        assert upload["error"]["message"] == f"{message} {hint}".replace(str(broken), "The file")


def test_a_second_server_finds_the_features_on_disk(tmp_path: Path, tiny_model: EchoingPixels) -> None:
    answers = []
    for name in ("first", "second"):
        cache = FeatureCache(tmp_path / "features")
        roots = (DEMO.parent,)
        with served(tmp_path / name, lambda: tiny_model, model="tiny", cache=cache, roots=roots) as live:
            body = live.ask(video(DEMO), QUESTION, model="tiny").json()
            answers.append((body["choices"], body["usage"]["prompt_tokens_details"].pop("cached")))
            assert live.metric(f'ep_clips_total{{source="{"disk" if name == "second" else "encoded"}"}}') == 1
    assert answers == [(answers[0][0], False), (answers[0][0], True)]


def test_running_answers_are_finished_when_the_server_stops(tmp_path: Path, shorts: list[Path]) -> None:
    slow = Slow(tinymodel.model(), 0.1)
    with served(tmp_path, lambda: slow, roots=(shorts[0].parent,)) as live:  # type: ignore[arg-type,return-value]
        done: list[Any] = []
        ask = threading.Thread(target=lambda: done.append(live.ask(video(shorts[0]), "Who?", stream=True)))
        ask.start()
        assert waited(lambda: slow.chunks > 1)
        live.server.stop()
        ask.join(30)
        assert done[0].status_code == 200 and done[0].text.endswith("data: [DONE]\n\n")
        assert waited(lambda: health(live.url) is None)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_and_its_processes(number: int, code: int) -> None:
    with program() as (run, url):
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": [video(DEMO), {"type": "text", "text": QUESTION}]}],
        }
        done = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert done.json()["choices"][0]["message"]["content"] == "cake"
        tasks = Path(f"/proc/{run.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        assert children  # the processes that read clips
        run.send_signal(number)
        out, err = run.communicate(timeout=60)
        assert run.returncode == code
        assert out == "" and "Traceback" not in err
        assert err.startswith(f"Serving tiny at {url}/v1")
        assert waited(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)
