"""Files that refer to other files: playlists, manifests, session descriptions, and an MP4 with external media.

`url`: the address of a folder, with a slash at the end. The files refer to `bait.ts` and `bait.mp4` in it."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.clips import Film, write

HLS = """#EXTM3U
#EXT-X-TARGETDURATION:2
#EXTINF:1,
{url}bait.ts
#EXT-X-ENDLIST
"""
CONCAT = "ffconcat version 1.0\nfile {url}bait.ts\n"
DASH = """<!-- not at the beginning --><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">
<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">
<BaseURL>{url}bait.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
SDP = "s=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
PAGE = '<!DOCTYPE html><video src="{url}bait.mp4"></video>'
TEXTS = {"hls": HLS, "concat": CONCAT, "dash": DASH, "sdp": SDP, "page": PAGE}
PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


def lay(folder: Path) -> None:
    """Write the files that the lures refer to."""
    for name in ("bait.ts", "bait.mp4"):
        write(folder / name, Film(seconds=1))


def lure(path: Path, kind: str, url: str = "") -> Path:
    """Write a lure of a kind in TEXTS."""
    path.write_text(TEXTS[kind].format(url=url))
    return path


def elsewhere(path: Path, target: Path) -> Path:
    """Write an MP4 whose samples are in `target`, by a QuickTime data reference ("alis")."""
    write(path, Film(seconds=1))
    path.write_bytes(_referring(path.read_bytes(), str(target).encode()))
    return path


def _referring(data: bytes, target: bytes) -> bytes:
    """The boxes of a file with each data reference replaced."""
    out, at = b"", 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        if kind in PARENTS:
            body = _referring(body, target)
        elif kind == b"dref":
            body = body[:8] + _alias(target)
        out += struct.pack(">I4s", len(body) + 8, kind) + body
        at += size
    return out


def _alias(target: bytes) -> bytes:
    name = target.rpartition(b"/")[2]
    head = bytes(10) + bytes([3]) + b"vol".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    levels = bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    path = target + b"\0" * (len(target) % 2)
    body = bytes(4) + head + levels + struct.pack(">HH", 2, len(path)) + path + struct.pack(">H", 0xFFFF)
    return struct.pack(">I4s", len(body) + 8, b"alis") + body
