"""The names of reducers: the library's own, registered ones, and those of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .errors import EpError, OptionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

REDUCER_NAMES = [  # and registered ones
    *("cs2", "cs2-maxmin", "maxmin", "maxmin-floors", "relevance", "relevance-maxmin", "diverse", "diverse-saliency"),
    *("seats", "fastv", "repeats", "uniform", "random", "full"),
]
SIEVED = {"cs2", "cs2-maxmin"}  # reducers that need a trained sieve
IN_DECODER = {"seats", "fastv"}  # reducers that drop tokens between the decoder's layers
NO_STATIC = (  # message and hint
    "Tokens dropped between the decoder's layers need a KV cache that grows.",
    "Leave static and compile out, or use another reducer.",
)
SIEVE_DEFAULT = "cs2-maxmin"  # the default for a model with a sieve
UNSIEVED = "maxmin-floors"  # and without one
AUTO: Literal["auto"] = "auto"  # stands for the choice of the library
GROUP = "echoingpixels.reducers"  # entry points of other packages: NAME = "module:REDUCER"
PLUGINS: dict[str, Any] = {}  # loaded reducers of other packages, by name


def add_name(name: str, needs_sieve: bool, in_decoder: bool) -> None:
    """Make options and commands accept a reducer's name."""
    if name not in REDUCER_NAMES:
        REDUCER_NAMES.append(name)
    for names, belongs in ((SIEVED, needs_sieve), (IN_DECODER, in_decoder)):
        names.discard(name)
        if belongs:
            names.add(name)


def known_reducers() -> tuple[str, ...]:
    """All names, with those of other packages. Loads none of these."""
    return tuple(dict.fromkeys((AUTO, *REDUCER_NAMES, *sorted(_found()))))


def check_reducer(name: str) -> str:
    """Return a known reducer's name, or auto, else raise OptionError listing them.

    An unknown name that is an entry point of another package is loaded; EpError if that fails.
    """
    if name not in (AUTO, *REDUCER_NAMES):
        entry = _found().get(name)
        if entry is None:
            raise OptionError(f"Unknown reducer {name!r}.", f"Known reducers: {', '.join(known_reducers())}.")
        _load(name, entry)
    return name


def _found() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(name: str, entry: EntryPoint) -> None:
    """Load a reducer of another package."""
    package = entry.dist.name if entry.dist else entry.module
    hint = f"Repair or uninstall {package}."
    try:
        reducer = entry.load()
    except Exception as error:  # of the other package: any
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EpError(f"The reducer {name!r} of {package} cannot be loaded: {what}", hint) from error
    needs_sieve = getattr(getattr(reducer, "scorer", None), "needs_sieve", None)
    if needs_sieve is None or not callable(getattr(reducer, "choose", None)):
        raise EpError(f"The reducer {name!r} of {package} is no Reducer: {entry.value}.", hint)
    PLUGINS[name] = reducer
    add_name(name, needs_sieve, getattr(reducer, "schedule", None) is not None)
