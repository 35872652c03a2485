"""Whether a file can be written, asked before the work whose result goes there. Knows nothing about what is written."""

from __future__ import annotations

from pathlib import Path

from echoingpixels.errors import DataError, OptionError


def check_outfile(path: Path, option: str, endings: tuple[str, ...], source: Path) -> None:
    """OptionError for an unknown ending or the `source` itself, DataError where nothing can be written."""
    if path.suffix.lower() not in endings:
        raise OptionError(
            f"{option} is {path}, of no known kind.", f"Give a name that ends with {' or '.join(endings)}."
        )
    there = path.exists()
    if there and source.exists() and path.samefile(source):
        raise OptionError(f"{option} would overwrite {source}.", "Choose another name.")
    try:
        path.open("ab").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be written: {reason}.", f"Choose another {option}.") from error
    if not there:
        path.unlink()
