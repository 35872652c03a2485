"""`ep serve`: answers over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from echoingpixels.errors import DataError, OptionError

from .. import console
from .. import options as o
from ..grouped import grouped
from ..options import server_option as option
from ..session import INTERRUPTED, Chosen, check_model, choose

if TYPE_CHECKING:
    from echoingpixels.serving.settings import Settings

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)
SHORTEST = 8  # characters of an API key
ALLOW = "URLs of clips that may be fetched, such as 'https://media.example.com/*'; may be repeated."


@dataclass(frozen=True, kw_only=True)
class ServerGroup:
    """Where the server listens, who may ask, and how much."""

    host: Annotated[str, option("--host", help="Address to listen at.")] = "127.0.0.1"
    port: Annotated[int, option("--port", min=0, max=65535, help="Port to listen at; 0: a free one.")] = 8000
    media_root: Annotated[
        list[Path] | None,
        option("--media-root", help="Folder for file:// URLs; may be repeated.", metavar="DIR"),
    ] = None
    allow_url: Annotated[list[str] | None, option("--allow-url", help=ALLOW, metavar="PATTERN")] = None
    api_key_file: Annotated[
        Path | None, option("--api-key-file", help="File with the API keys of clients, one per line.")
    ] = None
    insecure: Annotated[
        bool, option("--insecure", help="Listen at an address that other machines reach without an API key.")
    ] = False
    max_upload: Annotated[
        str, option("--max-upload", help="Largest clip that is uploaded or fetched.", metavar="SIZE")
    ] = "2GB"
    max_queue: Annotated[int, option("--max-queue", min=1, help="Most questions that wait for an answer.")] = 64
    clip_memory: Annotated[
        str, option("--clip-memory", help="Most memory for encoded clips and their KV caches.", metavar="SIZE")
    ] = "2GB"
    engine: Annotated[
        str, option("--engine", help="local: a model in this process; ray: replicas on Ray Serve.", metavar="NAME")
    ] = "local"
    replicas: Annotated[int, option("--replicas", min=1, help="Models on Ray Serve, each with a GPU of its own.")] = 1

    def check_engine(self, device: str) -> None:
        """OptionError for an unknown engine, or for options that it does not have; ModelError if it is missing."""
        from echoingpixels.serving import check_extra, replicas

        o.check_engine(self.engine)
        check_extra()
        if self.engine == "ray":
            if device.startswith("cuda:"):
                hint = "Give --device cuda."
                raise OptionError(f"--device {device} is one GPU; with --engine ray each replica has its own.", hint)
            replicas.check_extra()
        elif self.replicas > 1:
            raise OptionError(f"--replicas {self.replicas} needs --engine ray.", "Add --engine ray.")

    def settings(self, model: o.ModelGroup, tokens: o.TokenGroup, read: o.MediaGroup) -> Settings:
        """The settings, checked; the model's name follows when it is chosen."""
        from echoingpixels.features.cache import caches
        from echoingpixels.serving.addresses import Pattern
        from echoingpixels.serving.server import hosts_of
        from echoingpixels.serving.settings import Bounds, Settings

        keys = () if self.api_key_file is None else keys_in(self.api_key_file)
        for root in self.media_root or ():
            if not root.is_dir():
                raise OptionError(f"--media-root is {root}, which is not a folder.", "Give a folder of clips.")
        return Settings(
            model=model.model,
            uploads=(model.cache_dir or caches()) / "uploads",
            ask=tokens.ask_options(model),
            read=read.media_options(),
            cache=model.feature_cache(),
            roots=tuple(self.media_root or ()),
            allow=tuple(map(Pattern.of, self.allow_url or ())),
            keys=keys,
            hosts=hosts_of(self.host, keys, self.insecure),
            bounds=Bounds(
                upload=size_of(self.max_upload, "--max-upload"),
                waiting=self.max_queue,
                clips=size_of(self.clip_memory, "--clip-memory"),
            ),
        )


@grouped
def serve(server: ServerGroup, model: o.ModelGroup, tokens: o.TokenGroup, read: o.MediaGroup) -> int:
    """Answer questions over HTTP, in the format of OpenAI's chat completions.

    The options of tokens and media apply to requests that do not change them.
    Stops on Ctrl-C or SIGTERM, after the answers that are under way.
    """
    server.check_engine(model.device)
    from echoingpixels.serving.server import listen

    settings = server.settings(model, tokens, read)
    chosen = choose(model.model, model.load_options(read.max_pixels, settings.ask.share), model.yes)
    check_model(chosen, [settings.ask.reducer])
    with listen(server.host, server.port) as listening:
        interrupted = _server(settings, chosen, server).run(listening, console.say)
    return INTERRUPTED if interrupted else 0


def _server(settings: Settings, chosen: Chosen, server: ServerGroup) -> Any:
    """A server for the chosen model, whose name clients see without the folders above it."""
    from dataclasses import replace

    from echoingpixels.from_pretrained import load
    from echoingpixels.serving.server import Server

    name = Path(chosen.name).resolve().name if Path(chosen.name).exists() else chosen.name
    settings, made = replace(settings, model=name), partial(load, chosen.name, chosen.load)
    if server.engine == "local":
        return Server(settings, made)
    from echoingpixels.serving.replicas.server import on_ray

    return on_ray(settings, made, server.replicas, chosen.load.device)


def keys_in(path: Path) -> tuple[str, ...]:
    """The API keys of a file, without blank lines and comments. DataError where there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(f"{path} cannot be read: {reason.lower()}.", "Check --api-key-file.") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise DataError(f"{path} holds no API key.", "Write one key per line.")
    if any(len(key) < SHORTEST or not key.isascii() or " " in key for key in keys):
        raise DataError(f"A key in {path} is too short or has other characters than ASCII.", "Use 32 random letters.")
    return keys


def size_of(text: str, option: str) -> int:
    """Bytes from `2GB`, `500 MB` or `1GiB`; OptionError for anything else."""
    found = SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found and found[2].upper() in UNITS else 0
    if size < 1:
        raise OptionError(f"{option} is {text!r}, which is not a size.", "Give a size such as 2GB or 500MB.")
    return size
