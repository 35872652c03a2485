"""Answers over HTTP, in the format of OpenAI's API: uploads, a queue, padded batches, streams and metrics."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ModelError

PACKAGES = {  # package: the module that it installs
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "httpx": "httpx",
    "python-multipart": "python_multipart",
    "prometheus-client": "prometheus_client",
}


def check_extra() -> None:
    """ModelError where a package of the extra `serve` is missing."""
    missing = [package for package, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        hint = "Install it with `pip install 'echoingpixels[serve]'`."
        raise ModelError(f"ep serve needs the package {missing[0]}.", hint)
