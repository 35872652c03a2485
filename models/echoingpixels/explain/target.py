"""Writes an explanation as a page or a picture, depending on the file's ending."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, OptionError

if TYPE_CHECKING:
    from .explanation import Explanation

PAGE, PICTURE = ".html", ".png"


def write(explanation: Explanation, path: Path) -> int:
    """Write an explanation in the format of the file's ending, and return the size in bytes.

    OptionError for an unknown ending, DataError where the file cannot be written.
    """
    from . import page, poster

    renderers = {PAGE: page.render, PICTURE: poster.render}
    ending = path.suffix.lower()
    if ending not in renderers:
        raise OptionError(
            f"{path} is of an unknown file type.", f"Give a name that ends with {' or '.join(renderers)}."
        )
    content = renderers[ending](explanation)
    try:
        return path.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.", "Choose another file.") from error
