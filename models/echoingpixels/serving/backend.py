"""What the endpoints need of the part that answers: an engine of this process, or replicas on Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, Protocol

from .media import Found
from .metrics import Metrics

State = Literal["loading", "ready", "failed", "closed"]


class Checked(Protocol):
    """A model, as far as requests are checked against it."""

    def check(self, reducer: str, keep: float) -> None:
        """EpError for a reducer that the model does not have."""


class Backend(Protocol):
    """What answers. `ready` is called once it can, `failed` where it never will; `failure` is then the reason."""

    metrics: Metrics
    failure: BaseException | None
    ready: Callable[[], object]
    failed: Callable[[], object]

    @property
    def state(self) -> State:
        """Whether it answers."""

    @property
    def model(self) -> Checked:
        """The model. Refused while it does not answer."""

    def start(self) -> None:
        """Load the model, in a thread."""

    def close(self) -> None:
        """Stop answering."""


class Checker(Protocol):
    """What checks uploads."""

    def start(self) -> None:
        """Start the processes that read media."""

    def check(self, found: Found) -> Future[None]:
        """Check that a file is media. MediaError if it is not."""

    def close(self) -> None:
        """End the processes."""
