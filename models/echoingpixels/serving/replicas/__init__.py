"""Replicas of a model on Ray Serve, behind one server: questions about one clip go to one replica."""

from __future__ import annotations

import os

from ...errors import ModelError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # messages of Ray's own processes
}


def check_extra() -> None:
    """ModelError where Ray Serve is missing. Ray is imported without telemetry, and with messages in its logs only."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from ray import serve  # noqa: F401
    except ImportError as error:
        hint = "Install it with `pip install 'echoingpixels[ray]'`, or leave --engine out."
        raise ModelError("ep serve --engine ray needs the package ray[serve].", hint) from error
