"""Whether a file may be written, checked before the work whose result goes there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from echoingpixels.errors import DataError, OptionError


def check_outfile(path: Path, option: str, endings: tuple[str, ...], sources: Iterable[Path], force: bool) -> None:
    """OptionError for an unknown ending or one of the `sources`; DataError where nothing can be written, or where the
    file exists and `force` is not given."""
    if path.suffix.lower() not in endings:
        raise OptionError(
            f"{option} is {path}, of no known kind.", f"Give a name that ends with {' or '.join(endings)}."
        )
    check_sources(path, option, sources)
    there = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be written: {reason}.", f"Choose another {option}.") from error
    if not there:
        path.unlink()
    elif not force:
        raise DataError(f"{path} is already there.", f"Overwrite it by --force, or choose another {option}.")


def check_sources(path: Path, option: str, sources: Iterable[Path]) -> None:
    """OptionError where a file to be written is one of those that are read."""
    if not path.exists():
        return
    for source in sources:
        if source.exists() and path.samefile(source):
            raise OptionError(f"{option} would overwrite {source}.", "Choose another name.")
