"""The program `ep`: its commands. Errors become messages and exit codes here only."""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from echoingpixels import __version__
from echoingpixels.errors import LESS_MEMORY, EpError, OptionError

from .commands.ask import ask
from .commands.batch import batch
from .commands.cache import cache
from .commands.chat import chat
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.explain import explain
from .commands.models import models
from .commands.profile import profile
from .commands.serve import serve
from .commands.synth import synth
from .commands.train import train
from .session import INTERRUPTED

DONE, FAILED, USAGE = 0, 1, 2  # and those of session.py
DEBUG = "--debug"
SHOWN = "Print tracebacks of errors and warnings of other libraries; accepted by every command."

app = typer.Typer(name="ep", add_completion=False, pretty_exceptions_enable=False)
for command in (ask, chat, serve, batch, explain, evaluate, profile, cache, models, doctor, synth, train):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ep {__version__}")
        raise typer.Exit()


@app.callback()
def ep(
    debug: Annotated[bool, typer.Option(DEBUG, help=SHOWN)] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Answer questions about video and audio with a multimodal LLM that reads only the relevant tokens."""


def main(arguments: list[str] | None = None) -> None:
    """Run `ep` and exit: 0 done, 1 an error with a message, 2 wrong usage, 3 rows failed, 130 interrupted."""
    atexit.register(gc.freeze)  # else the interpreter searches all objects for garbage at exit
    given = sys.argv[1:] if arguments is None else list(arguments)
    ours = given[: given.index("--")] if "--" in given else given
    debug = DEBUG in ours
    rest = [word for word in ours if word != DEBUG] + given[len(ours) :]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a pipe need not be UTF-8
    with _other_libraries(shown=debug):
        code = _run(rest, debug) if rest else _run(["--help"], debug) or USAGE
    sys.exit(code)


@contextmanager
def _other_libraries(shown: bool) -> Iterator[None]:
    """Keep warnings and log records of all libraries off the terminal unless `shown`."""
    if shown:
        yield
        return
    logging.captureWarnings(True)  # a warning becomes a record, whatever filters libraries install
    logging.disable()  # and no record is printed
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.captureWarnings(False)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        return int(app(arguments, prog_name="ep", standalone_mode=False) or DONE)
    except BrokenPipeError:  # the reader of the output has closed the pipe; Typer exits with 1, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return INTERRUPTED
    except EpError as error:
        code = USAGE if isinstance(error, OptionError) else FAILED
        return _print_error(error.message, error.hint, code, debug)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # the parser's own; its class has moved between Typer's versions
        if usage is not None:
            return _print_error(usage(), f"See `{_command(error)} --help`.", USAGE, debug)
        if type(error).__name__ == "OutOfMemoryError":  # raised by torch outside the guarded calls
            reason = str(error).strip().splitlines()[0]
            return _print_error(f"Memory ran out: {reason}", LESS_MEMORY, FAILED, debug)
        what = f"internal error: {type(error).__name__}: {error}"
        return _print_error(
            what, "" if debug else "Run with --debug for a traceback, and please report it.", FAILED, debug
        )


def _command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return getattr(context, "command_path", None) or "ep"


def _print_error(message: str, hint: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    for label, text in (("error", message), ("hint", hint)):
        if text.strip():
            print(f"{label}: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
