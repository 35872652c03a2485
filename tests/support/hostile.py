"""Files that no server should trust, and the error that it answers with."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import httpx


def one_line_error(done: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The error of a refused request, in OpenAI's shape and on one line."""
    assert done.status_code in statuses, done.text
    error = done.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"] and len(error["message"]) <= 600
    return dict(error)


def broken_files(film: Path) -> dict[str, bytes]:
    """Files that are no media, or media that cannot be read."""
    content, draw = film.read_bytes(), random.Random(0)
    return {
        "one byte": b"\0",
        "text": b"hello world " * 100,
        "html": b"<!doctype html><video src=file:///etc/passwd>",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "dash": b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "zip": b"PK\x03\x04" + bytes(200),
        "elf": b"\x7fELF" + bytes(500),
        "noise": draw.randbytes(50_000),
        "head": content[:200],
        "tail": content[-3000:],
        "no index": content[: len(content) // 4],
        "png of 4 gigapixels": b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 65535, 65535, 8, 2, 0, 0, 0, 0),
        "gif": b"GIF89a" + bytes(30),
        "riff": b"RIFF\xff\xff\xff\xffWAVEfmt ",
        "ogg": b"OggS" + bytes(100),
        "flac": b"fLaC" + bytes(100),
        "matroska": b"\x1a\x45\xdf\xa3" + bytes(100),
    }
