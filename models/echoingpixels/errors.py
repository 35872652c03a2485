"""Errors with a message and a hint for the user, and out of memory as one of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

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


PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")

T = TypeVar("T")
Advise = Callable[[], tuple[str, ...]]
"""Options that would fit, one line each; called after the memory was freed."""


def internal(error: Exception, subject: str) -> EpError:
    """An EpError as it is, any other error as an InternalError that `subject` was not answered, with its first line."""
    if isinstance(error, EpError):
        return error
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InternalError(f"{subject} could not be answered: {reason}.", "Please report it; --debug shows where it is.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the host has no memory left, as torch, CUDA or Python report it."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in PHRASES)


def guarded(call: Callable[[], T], doing: str, device: torch.device, advise: Advise) -> T:
    """The result of `call`. OutOfMemoryError, with the planner's advice as its hint, where memory runs out.

    The error is made after the except block: until then the traceback holds the tensors.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    raise _described(doing, device, advise)


def guarded_stream(stream: Iterator[T], doing: str, device: torch.device, advise: Advise) -> Iterator[T]:
    """As `guarded`, for the items of an iterator."""
    try:
        yield from stream
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    raise _described(doing, device, advise)


def _described(doing: str, device: torch.device, advise: Advise) -> OutOfMemoryError:
    """The error, with the device's free memory and options to change."""
    import torch

    gc.collect()  # tensors in reference cycles
    total = ""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info(device)
        total = f": {free / 1e9:.1f} of {whole / 1e9:.1f} GB are free now"
    lines = advise()
    hint = f"By the memory plan these fit: {' '.join(lines)}" if lines else LESS_MEMORY
    return OutOfMemoryError(f"Memory ran out on {device} while {doing}{total}.", hint)
