"""Long runs against one server: its memory stays, and broken uploads by the hundred leave nothing behind."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from echoingpixels.serving.settings import Bounds
from tests.support import tinymodel
from tests.support.hostile import broken_files, one_line_error
from tests.support.served import Live, asked, served, video

pytestmark = pytest.mark.slow
REQUESTS, WARM = 1000, 300
GROWTH = 24 << 20  # bytes that 700 further requests may add
MEMORY = 4 << 20  # bytes of clips: those of the last few questions


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="The memory of a process is read from /proc.")
def test_memory_is_flat_over_1000_requests(tmp_path: Path, shorts: list[Path]) -> None:
    bounds = Bounds(clips=MEMORY, uploads=1 << 20)
    sizes: list[int] = []
    with (
        served(tmp_path, tinymodel.model, roots=(shorts[0].parent,), bounds=bounds) as live,
        httpx.Client(base_url=live.url, timeout=120) as http,
    ):
        kinds = requests_of(http, shorts)
        for number in range(REQUESTS):
            kinds[number % len(kinds)](number)
            if number + 1 in (WARM, REQUESTS):
                assert live.idle()
                sizes.append(resident())
        assert sum(clip.held_bytes for clip in live.server.clips._held.values()) <= MEMORY
        assert live.metric('ep_requests_total{outcome="answered"}') == REQUESTS // len(kinds) * 4
    grown = sizes[1] - sizes[0]
    assert grown < GROWTH, f"{grown / 2**20:.1f} MiB more after {REQUESTS - WARM} requests"


def requests_of(http: httpx.Client, shorts: list[Path]) -> list[Callable[[int], None]]:
    """Requests of every kind, each by its number: no two are equal."""
    chat = "/v1/chat/completions"

    def question(number: int, **fields: object) -> httpx.Response:
        clip = video(shorts[number % len(shorts)], uuid=f"clip {number}")
        return http.post(chat, json=asked(clip, f"Who is number {number}?", end=1.0 + number / 4000, **fields))

    def whole(number: int) -> None:
        assert question(number).status_code == 200

    def streamed(number: int) -> None:
        assert question(number, stream=True).text.endswith("data: [DONE]\n\n")

    def by_sieve(number: int) -> None:
        assert question(number, reducer="cs2", keep=0.1).status_code == 200

    def uploaded(number: int) -> None:
        content = shorts[0].read_bytes() + f"{number:016}".encode()  # bytes after the last box are skipped
        made = http.post("/v1/files", files={"file": ("a.mp4", content)}).json()
        assert http.post(chat, json=asked(video(made["id"]), "Who?")).status_code == 200

    def refused(number: int) -> None:
        inline = "data:video/mp4;base64," + "AAAA" * (1000 + number)
        assert http.post(chat, json=asked(video(inline), "Who?")).status_code == 400

    return [whole, streamed, by_sieve, uploaded, refused]


def test_200_broken_or_hostile_uploads_are_refused_and_the_server_lives(live: Live, shorts: list[Path]) -> None:
    outcomes = [live.post("/v1/files", files={"file": ("a", content)}) for content in hostile(shorts)]
    refused = [done for done in outcomes if done.status_code != 200]
    for done in refused:
        one_line_error(done, 400)
    assert len(outcomes) == 200 and len(refused) >= 150
    kept = {done.json()["id"] for done in outcomes if done.status_code == 200}
    assert {f"file-{file.name}" for file in live.server.files.folder.iterdir()} == kept
    assert live.ask(video(shorts[0]), "Who?").status_code == 200 and live.idle()


def hostile(shorts: list[Path]) -> Iterator[bytes]:
    """120 files that are no readable media, and 80 clips with wrong bytes and without their ends."""
    for seed in range(6):
        draw = random.Random(seed)
        for content in broken_files(shorts[seed]).values():
            yield content + (draw.randbytes(draw.randrange(1, 2000)) if seed else b"")
    for seed in range(80):
        draw, spoiled = random.Random(seed), bytearray(shorts[seed % len(shorts)].read_bytes())
        for _ in range(draw.randrange(1, 200)):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        yield bytes(spoiled[: draw.randrange(100, len(spoiled)) if seed % 2 else None])
