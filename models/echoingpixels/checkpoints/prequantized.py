"""Checkpoints whose published weights are quantized (AWQ, GPTQ, bitsandbytes): detection and errors."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError

PLAIN = "use the plain checkpoint with --quant nf4"


def quantized_as(config: Any) -> str | None:
    """The quantization method that a config names, such as `awq`; None for a plain checkpoint."""
    about = getattr(config, "quantization_config", None)
    if about is None:
        return None
    return str(dict(about).get("quant_method") or "an unnamed method")


def check_quant(name: str, config: Any, quant: str) -> None:
    """ModelError where weights that are quantized already would be quantized again."""
    method = quantized_as(config)
    if method is not None and quant != "none":
        hint = f"Leave out --quant {quant}, or {PLAIN.removesuffix('nf4')}{quant}."
        raise ModelError(f"{name} is already quantized ({method}).", hint)


def unusable(name: str, method: str, error: Exception) -> ModelError:
    """The error for a quantized checkpoint that transformers cannot read on this machine."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
    needs = "Install the package it names, or" if isinstance(error, ImportError) else "Instead,"
    return ModelError(f"{name} is already quantized ({method}) and could not be loaded: {reason}.", f"{needs} {PLAIN}.")
