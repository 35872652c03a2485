"""Errors with a message and a hint for the user."""

from __future__ import annotations

LESS_MEMORY = (
    "Use a smaller --keep, --max-frames or --max-pixels, --quant nf4, or a smaller model (`ep models` lists them)."
)


class EpError(Exception):
    """A problem the user can act on.

    `message`: what happened and what was found. `hint`: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class OptionError(EpError):
    """An option has a value that cannot be used."""


class MediaError(EpError):
    """A media file is missing, unreadable or holds nothing to answer from."""


class ModelError(EpError):
    """A model, its weights, its sieve or its quantization cannot be used."""


class DataError(EpError):
    """A question file or a data set cannot be read."""


class OutOfMemoryError(EpError):
    """A clip needs more memory than there is."""


class InternalError(EpError):
    """A failure that is not the user's fault."""
