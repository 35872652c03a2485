"""`ep doctor`: checks of the installation, with instructions for missing parts."""

from __future__ import annotations

from dataclasses import asdict

import typer

from .. import console
from .. import options as o
from .models import HEADER, rows

FAILED = 1


def doctor(json: o.Json = False) -> None:
    """Check the installation: packages, decoders, CUDA, quantization, memory, disk, and which models fit.

    The exit code is 1 if a requirement is missing. Needs no network.
    """
    from echoingpixels.planning.doctor import checkup

    with console.working("Checking this machine …"):
        found = checkup()
    if json:
        checks = [asdict(check) for check in found.checks]
        console.out_json(
            {"works": found.works, "checks": checks, "models": [entry.as_dict() for entry in found.models]}
        )
    else:
        for check in found.checks:
            console.out(f"{check.state:8} {check.name}: {check.seen}")
            if check.hint:
                console.out(f"{'':8} → {check.hint}")
        if found.models:
            console.out("")
            console.columns(HEADER, rows(found.models))
    if not found.works:
        raise typer.Exit(FAILED)
