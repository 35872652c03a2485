"""What a user is told when something cannot be done. Knows nothing about printing or exit codes."""

from __future__ import annotations

LESS_MEMORY = (
    "Use a smaller --keep, --max-frames or --max-pixels, --quant nf4, or a smaller model (`ep models` lists them)."
)


class EpError(Exception):
    """A problem the user can act on.

    `message` says what happened and what was seen, `hint` what to do about it.
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
    """Something went wrong that is no fault of the user's."""
