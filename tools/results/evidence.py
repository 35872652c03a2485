"""Evidence of answers: how often their first moment overlaps the event asked about, and where the kept tokens are.

For SyncClips' questions "Which object is visible when the … plays?": the share of kept tokens on the sound (audio
tokens during it) or on the object (video tokens in its corner while it is visible); the same share of all tokens is
chance.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from echoingpixels.features.cache import FeatureCache
from echoingpixels.from_pretrained import load
from echoingpixels.inputs.positions import AUDIO, VIDEO
from echoingpixels.inputs.token_stream import TokenStream
from echoingpixels.reducer_names import UNSIEVED
from echoingpixels.reducers.registry import REDUCERS as KNOWN
from echoingpixels.storage.folders import write_text_atomically
from epcli.console import progress

from ..evidence import measured
from .figures import UNKNOWN, percent, table
from .measure import make, shared_scores
from .plan import BEST, BOTH, SAME_PICK, SETS, Cell
from .store import Store

KIND = "object_at_sound"
KEEPS = (0.2, 0.1, 0.05, 0.02)
REDUCERS = ("cs2", BEST, SAME_PICK, UNSIEVED, "uniform")
ALL = "all tokens"
MOST = 100  # questions of a set
ASKED, KEEP = 600, 0.1  # questions of a set to ask for the moments of their answers, and the keep ratio


def measure(store: Store) -> None:
    """Measure the shares, unless they are stored."""
    for name in BOTH:
        make(store, SETS[name])
    path = store.folder / "cells" / f"evidence-{_key(store)}.json"
    if path.exists():
        return
    model, cache = load(store.model, reuse=None), FeatureCache(store.folder / "features")
    found: dict[str, list[float]] = defaultdict(list)
    with progress("evidence") as on_question, shared_scores():
        asked = _asked(store)
        for done, (folder, row) in enumerate(asked, 1):
            clip = model.encode(store.questions(folder).parent / row["media"], cache=cache)
            stream = model.embed(clip.prompt(row["question"]))
            hit = on(stream, *events_of(row))
            found[f"{folder} {ALL}"].append(float(hit[stream.pool[0]].float().mean()))
            for name in filter(KNOWN.__contains__, REDUCERS):
                for keep in KEEPS:
                    kept = model.select(stream, name, keep).keep[0] & stream.pool[0]
                    found[f"{folder} {name} {keep:g}"].append(float(hit[kept].float().mean()))
            clip.store()
            on_question(done, len(asked))
    shares = {name: mean(values) for name, values in found.items()}
    found_moments = {name: moments(store, name) for name in BOTH}
    about = {"questions": len(asked), "shares": shares, "moments": found_moments}
    write_text_atomically(path, json.dumps(about) + "\n")


def moments(store: Store, name: str) -> dict[str, float]:
    """The share of right answers whose first moment overlaps the event, chance, and the mean length in s."""
    most = min(store.most, ASKED)
    found = list(measured(store.questions(name), store.model, None, most, reducer=BEST, keep=KEEP))
    figures = {key: mean([float(getattr(one, key)) for one in found]) for key in ("hit", "chance", "length") if found}
    return {"answers": len(found), **figures}


def on(stream: TokenStream, sound: dict[str, Any], thing: dict[str, Any]) -> Tensor:
    """Which tokens (L,) of a stream of one row are on the sound or the object."""
    time, kind, cell = stream.time[0], stream.kind[0], stream.cell[0]
    rows, columns = cell[kind == VIDEO].amax(0) + 1
    audible: Tensor = (sound["start"] <= time) & (time < sound["end"])
    visible: Tensor = (thing["start"] <= time) & (time < thing["end"])
    down, right = (1 if side in thing["corner"] else -1 for side in ("bottom", "right"))
    middle = ((cell + 0.5) / torch.stack([rows, columns]) - 0.5).T  # (2, L) from the centre
    corner = (middle[0] * down > 0) & (middle[1] * right > 0)
    return ((kind == AUDIO) & audible) | ((kind == VIDEO) & visible & corner)


def fields(store: Store) -> dict[str, str]:
    """The texts of the page about evidence."""
    path = store.folder / "cells" / f"evidence-{_key(store)}.json"
    found: dict[str, Any] = {"questions": UNKNOWN, "shares": {}}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for folder in BOTH:
        chance = percent(found["shares"].get(f"{folder} {ALL}"))
        rows.append([folder, ALL, *([chance] * len(KEEPS))])
        for name in dict.fromkeys(REDUCERS):
            shares = (percent(found["shares"].get(f"{folder} {name} {keep:g}")) for keep in KEEPS)
            rows.append(["", f"`{name}`", *shares])
    header = ["set", "reducer", *(f"{keep:g}" for keep in KEEPS)]
    texts = {"evidence": table(header, rows), "evidence_questions": str(found["questions"])}
    return texts | {"moments": _moments(found.get("moments", {})), "moments_keep": f"{KEEP:g}"}


def _moments(found: dict[str, dict[str, float]]) -> str:
    rows = []
    for name in BOTH:
        of = found.get(name) or {}
        length = f"{of['length']:.1f}" if "length" in of else UNKNOWN
        rows.append([name, str(of.get("answers", UNKNOWN)), percent(of.get("hit")), percent(of.get("chance")), length])
    return table(["set", "right answers", "overlap", "chance", "mean length, s"], rows)


def _asked(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Set and question, as read from the question files."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in BOTH:
        path = store.questions(name)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [row for row in map(json.loads, lines[: store.most]) if row["kind"] == KIND]
        found += [(name, row) for row in rows[:MOST]]
    return found


def events_of(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sound that a question of KIND names, and the object that answers it."""
    named = row["question"].split(" the ")[-1].split(" plays")[0]
    sound = next(event for event in row["events"] if event["what"] == named)
    return sound, next(event for event in row["events"] if event["what"] == row["answer"])


def _key(store: Store) -> str:
    """A digest of the cells whose selections these are."""
    cells = (Cell(name, reducer, keep) for name in BOTH for reducer in REDUCERS for keep in KEEPS)
    names = [str(store.file(cell)) for cell in cells] + [str(store.most)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
