"""Files and folders from strangers: nothing is opened, asked over the network or run that was not named itself."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

from echoingpixels.checkpoints.loading import KNOWN
from echoingpixels.errors import MediaError, ModelError
from echoingpixels.from_pretrained import load
from echoingpixels.media import container, read_clip
from echoingpixels.options import LoadOptions
from echoingpixels.planning.meta_model import outline
from tests.support.lures import TEXTS, elsewhere, lay, lure
from tests.support.web import serving

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Site:
    """A folder with bait, its address, and what was fetched from there."""

    folder: Path
    url: str
    fetched: list[str]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    fetched: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None: ...

    lay(tmp_path)
    with serving(
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path))
    ) as server:
        yield Site(tmp_path, f"http://127.0.0.1:{server.server_port}/", fetched)


@pytest.fixture
def gullible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at a file's first words: the lists that FFmpeg gets have to hold by themselves."""
    monkeypatch.setattr(container, "PLAYLISTS", ())


def packets(path: Path, options: dict[str, str]) -> int:
    """How many FFmpeg reads with these options, without this library."""
    with av.open(str(path), container_options=options) as opened:
        return sum(1 for packet in opened.demux() if packet.size)


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.mpd", "a.sdp", "a.html"])
@pytest.mark.parametrize("kind", TEXTS)
def test_what_names_other_files_is_refused(site: Site, kind: str, name: str) -> None:
    for url in ("", site.url):
        path = lure(site.folder / name, kind, url)
        with pytest.raises(MediaError) as caught:
            read_clip(path)
        assert name in caught.value.message and caught.value.hint
    assert not site.fetched


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.mpd", "a.sdp", "a.html"])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.usefixtures("gullible")
def test_ffmpeg_itself_is_told_to_refuse_them(site: Site, kind: str, name: str) -> None:
    for url in ("", site.url):
        with pytest.raises(MediaError, match="cannot be opened as media"):
            read_clip(lure(site.folder / name, kind, url))
    assert not site.fetched


@pytest.mark.parametrize(("kind", "name"), [("hls", "a.m3u8"), ("concat", "a.mp4")])
def test_without_the_lists_the_lures_would_work(site: Site, kind: str, name: str) -> None:
    assert packets(lure(site.folder / name, kind), {}) == 30
    anything = {"protocol_whitelist": "file,http,tcp", "safe": "0"}
    assert packets(lure(site.folder / name, kind, site.url), anything) == 30
    assert site.fetched == ["/bait.ts"]


@pytest.mark.parametrize(("kind", "name"), [("hls", "a.m3u8"), ("concat", "a.mp4")])
@pytest.mark.usefixtures("gullible")
def test_it_is_the_list_of_formats_that_refuses_them(
    site: Site, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "FORMATS", f"{container.FORMATS},hls,concat")
    assert len(read_clip(lure(site.folder / name, kind)).frames) == 2


def test_an_mp4_cannot_have_its_media_elsewhere(site: Site) -> None:
    path = elsewhere(site.folder / "a.mp4", site.folder / "bait.mp4")
    assert packets(path, {"enable_drefs": "1", "use_absolute_path": "1"}) == 30  # the reference works where followed
    with pytest.raises(MediaError, match="no frame or sound"):
        read_clip(path)


@pytest.fixture
def stranger(tiny: str, tmp_path: Path) -> Path:
    """A model's folder that brings a module which leaves a trace when it is run."""
    folder = Path(shutil.copytree(KNOWN.get(tiny, tiny), tmp_path / "stranger"))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass Own: ...\n")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def brings_a_config(folder: Path) -> None:
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})


def brings_a_model(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModel": "own.Own"})


def brings_a_tokenizer(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})


@pytest.mark.parametrize("bring", [brings_a_config, brings_a_model, brings_a_tokenizer])
def test_a_model_with_code_of_its_own_is_refused_and_nothing_runs(
    stranger: Path, bring: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(stranger)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # to transformers' question whether to run it
    for use in (lambda: load(str(stranger)), lambda: outline(str(stranger), LoadOptions())):
        with pytest.raises(ModelError, match=r"code of its own \(auto_map in (tokenizer_)?config\.json\)") as caught:
            use()
        assert "runs no code" in caught.value.hint
    assert not (stranger.parent / "trace").exists() and sys.stdin.read() == "y\n"


def test_transformers_is_told_to_run_no_code_either(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoingpixels.checkpoints.loading.check_contents", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    brings_a_config(stranger)
    with pytest.raises(ModelError, match="custom code"):
        load(str(stranger))
    assert not (stranger.parent / "trace").exists() and sys.stdin.read() == "y\n"


class Bomb:
    """A pickle of it creates a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt"])
def test_pickled_weights_are_refused_unread(stranger: Path, name: str) -> None:
    import torch

    for weights in stranger.glob("*.safetensors"):
        weights.unlink()
    trace = stranger.parent / "trace"
    torch.save({"weight": Bomb(trace)}, stranger / name)
    with pytest.raises(ModelError, match=rf"as a pickle \({name}\)") as caught:
        load(str(stranger))
    assert "safetensors" in caught.value.hint and not trace.exists()
    torch.load(stranger / name, weights_only=False)["weight"].close()
    assert trace.exists()  # so it would have gone off
