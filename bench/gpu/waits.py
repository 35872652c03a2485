"""Host synchronisations between the end of encoding and the first token, as PyTorch itself counts them on CUDA."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from bench.gpu.parity import QUESTION
from bench.gpu.rows import Case, Row
from bench.gpu.setup import Setup
from echoingpixels.generation.decode import stream_tokens
from echoingpixels.options import GenerateOptions
from echoingpixels.profiling.measurements import FULL
from echoingpixels.reducer_names import SIEVE_DEFAULT, UNSIEVED
from echoingpixels.reducers.setting import Setting

SYNCHRONISING = "synchronizing CUDA operation"  # in PyTorch's warning


def cases(setup: Setup) -> Iterator[Case]:
    """A question by each reducer; on CUDA alone."""
    absent = "" if setup.device.type == "cuda" else "counted on CUDA alone"
    for setting in (FULL, Setting(UNSIEVED, setup.keeps[0]), Setting(SIEVE_DEFAULT, setup.keeps[0])):
        name = f"{setting.reducer} {setting.keep:g}"
        yield Case("waits", name, partial(_counted, setup, setting), absent)


@torch.no_grad()
def _counted(setup: Setup, setting: Setting) -> Iterator[Row]:
    """The second of two equal questions counts: what is set up at the first use is no part of it."""
    model = setup.models.get(setup.half)
    clip = model.encode(setup.decoded(model))
    rows: list[Row] = []
    for _ in range(2):
        with _synchronisations() as select:
            stream = model.embed(clip.prompt(QUESTION))
            kept = stream.take(model.select(stream, setting.reducer, setting.keep))
        with _synchronisations() as prefill:
            list(stream_tokens(model.backbone, kept, GenerateOptions(max_new_tokens=1)))
        counts = {"select": select, "prefill": prefill}
        rows = [{"stage": stage, "count": found.total(), "places": dict(found)} for stage, found in counts.items()]
    yield from rows


@contextmanager
def _synchronisations() -> Iterator[Counter[str]]:
    """Afterwards holds the number of synchronisations inside, by line of Python."""
    found: Counter[str] = Counter()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for one in caught:
        if SYNCHRONISING in str(one.message):
            found[f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"] += 1
