"""Our model against numbers recorded from the published EchoingPixels code. Takes every option from the folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.case import Case, read_case
from tests.parity.model import RecordedModel
from tests.parity.run import Generated, Options, Run
from tests.parity.tally import EXACT, FixtureError, Recorded, Tally

NEAR, FINE = 1e-4, 1e-5
BOUNDS = {"cos_merged": FINE, "sin_merged": FINE, "cos_merged_kept": FINE, "sin_merged_kept": FINE, "select_prob": FINE}
TIE = 5e-5  # two logits closer than the recorded noise (2.6e-5 each) may change places in a list of the best five
LONE_ROW = (  # what a row without media has from the encoder, when another row of its batch has media
    *("encoder_layer0_out", "encoder_out", "scores_raw", "compressed_hidden", "decoder_layer0_out"),
    *("logits", "logits_last"),
)
SHARED = re.compile(r"s(\d+(?:-\d+)*)(?:\.enc(\d+))?(\.train)?")


@dataclass
class Comparison:
    """One case being compared."""

    name: str
    model: RecordedModel
    recorded: Recorded
    case: Case
    tally: Tally

    def rows(self, name: str, options: Options) -> list[int]:
        """The rows for which a recorded value is what it should be."""
        with_media = [bool(row.media) for row in self.case.rows]
        if options.train or not options.layers or all(with_media) or not any(with_media) or name not in LONE_ROW:
            return list(range(len(with_media)))
        self.tally.skip(
            f"{self.name}: {name} of rows without media",
            "recorded through the encoder because of the other rows; ours equals the row alone",
        )
        return [i for i, there in enumerate(with_media) if there]

    def compare(self, kind: str, where: str, ours: Any, recorded: Tensor, bound: float = NEAR) -> None:
        exact = not recorded.is_floating_point()
        self.tally.compare(kind, f"{self.name}/{where}", ours, recorded, EXACT if exact else BOUNDS.get(kind, bound))

    def unknown(self, name: str) -> None:
        self.tally.problem(f"{self.name}: {name} was recorded and is not compared (unknown name)")


def compare_reference(folder: Path, manifest: dict[str, Any], tally: Tally) -> None:
    """Compare every case of a reference folder."""
    listed = {case["file"] for case in manifest["cases"]}
    for path in sorted(folder.glob("case_*.safetensors")):
        if path.name not in listed:
            tally.problem(f"{path.name} is not in the manifest")
    if not listed:
        raise FixtureError(f"nothing to compare in {folder}: its manifest has no cases")
    model = RecordedModel(folder, manifest)
    for case in manifest["cases"]:
        recorded = Recorded(folder / case["file"])
        name = case["name"]
        for tensor in case.get("tensors", []):
            if tensor["name"] not in recorded:
                tally.problem(f"{name}: {tensor['name']} is in the manifest, not in {case['file']}")
        read = read_case(name, model, recorded, tally)
        if read is None:
            continue
        comparison = Comparison(name, model, recorded, read, tally)
        _compare_shared(comparison, case["variants"])
        for variant in case["variants"]:
            _compare_variant(comparison, variant)
        for left in sorted(recorded.unread):
            comparison.unknown(left)


def _compare_shared(at: Comparison, variants: list[dict[str, Any]]) -> None:
    sections = variants[0]["mrope_section"]
    runs: dict[str, Run] = {}
    for name in sorted(n for n in at.recorded.unread if n.startswith("shared/")):
        group, _, tensor = name.removeprefix("shared/").rpartition("/")
        match = SHARED.fullmatch(group)
        if group and not match:
            continue
        if match:
            split = [int(x) for x in match[1].split("-")]
            options = Options(split, int(match[2] or 0), train=bool(match[3]))
        else:
            options = Options(sections)
        if group not in runs:
            runs = {group: Run(at.model, at.case, options)}  # one at a time: a run sets the split
        _compare_tensor(at, runs[group], f"shared/{group}".rstrip("/"), tensor, at.recorded[name])


def _compare_variant(at: Comparison, variant: dict[str, Any]) -> None:
    prefix = variant["id"] + "/"
    names = sorted(name for name in at.recorded.unread if name.startswith(prefix))
    reason = _out_of_scope(at, variant)
    if reason:
        for name in names:
            at.recorded.unread.discard(name)
        return at.tally.skip(f"{at.name}/{variant['id']}", reason)
    mode: str = variant["mode"]
    options = Options(
        sections=variant["mrope_section"],
        layers=variant["av_refiner_layers"],
        keep=variant["compression_ratio"],
        train=mode.startswith("train"),
        copied="copy" in mode,
    )
    if not mode.startswith(("train", "inference")):
        at.tally.problem(f"{at.name}/{variant['id']}: unknown mode {mode!r}")
    if not names:
        at.tally.problem(f"{at.name}/{variant['id']}: nothing was recorded")
    run = Run(at.model, at.case, options)
    for name in names:
        _compare_tensor(at, run, variant["id"], name.removeprefix(prefix), at.recorded[name])
    _compare_manifest(at, run, variant)
    if len(at.case.rows) > 1 and not options.train:
        alone = [Run(at.model, at.case.alone(row), options).logits[:, -1] for row in range(len(at.case.rows))]
        at.compare("batch against alone", variant["id"], run.logits[:, -1], torch.cat(alone))


def _out_of_scope(at: Comparison, variant: dict[str, Any]) -> str:
    """Why a variant is not compared, or nothing."""
    if variant.get("raises"):
        return "the recorded code fails here"
    if len(variant["mrope_section"]) != 4:
        return "a split that has not four parts is refused here (the recorded code accepts it and is wrong)"
    kinds = variant.get("retain_token", "av")
    if kinds == "v" and any(media.mel is not None for row in at.case.rows for media in row.media):
        return "video-only reduction drops all audio in the recorded code; ours keeps it (method.md)"
    if kinds not in ("v", "av"):
        at.tally.problem(f"{at.name}/{variant['id']}: unknown retain_token {kinds!r}")
    return ""


def _compare_tensor(at: Comparison, run: Run, where: str, name: str, recorded: Tensor) -> None:
    """Compare one recorded tensor of a shared group or a variant."""
    if name.startswith("single_row_"):
        return _compare_single(at, run, where, name.removeprefix("single_row_"), recorded)
    if name.startswith("gen_"):
        return _compare_generated(at, run, where, name, recorded)
    if name.startswith("keep_idx_row"):
        row = int(name.removeprefix("keep_idx_row"))
        there = at.case.mask[row].nonzero()[:, 0]  # counted with the recorded row's padding
        kept = there[run.selection.keep[row][run.stream.mask[row]]]
        return at.compare("keep_idx", where, kept, recorded)
    if name.startswith("grad/"):
        gradient = run.gradient(name.removeprefix("grad/")) if run.options.train else None
        if gradient is None:
            return at.unknown(f"{where}/{name}")
        return at.compare("grad", where, gradient, recorded, FINE)
    if name == "loss":
        return at.compare("loss", where, run.loss.reshape(recorded.shape), recorded, FINE)
    if name == "rope_deltas":
        delta = run.stream.next_position[:, None] - at.case.mask.shape[1]  # (B, 1)
        return at.compare(name, where, delta, recorded)
    if name == "logits_last":
        rows = at.rows(name, run.options)
        return at.compare(name, where, run.logits[rows, -1], recorded[rows])
    _compare_tokens(at, run, where, name, recorded)


def _compare_tokens(at: Comparison, run: Run, where: str, name: str, recorded: Tensor) -> None:
    """Compare a value that every token has, row by row, where there are tokens."""
    if name in ("position_ids", "position_ids_kept"):
        recorded = recorded.permute(1, 2, 0)  # (B, L, 4)
    whole = run.whole(name)
    ours = run.left(name) if whole is None else whole
    if ours is None:
        return at.unknown(f"{where}/{name}")
    for row in at.rows(name, run.options):
        real = run.stream.mask[row] if whole is not None else run.kept.mask[row]
        if whole is not None:
            there = recorded[row][at.case.mask[row]]
        elif name == "attention_mask_kept":
            there, real = recorded[row], real.flip(0)  # recorded rows are padded on the right
            at.compare(name, where, real.to(recorded.dtype), there)
            continue
        else:
            index = at.recorded.get(f"{where}/keep_idx_row{row}")
            there = recorded[row][: int(at.case.mask[row].sum()) if index is None else len(index)]
        at.compare(name, where, ours[row][real], there)


def _compare_generated(at: Comparison, run: Run, where: str, name: str, recorded: Tensor) -> None:
    if len({row["total"] for row in run.counts()}) > 1:
        why = "batched generation of unequal rows is wrong in the recording"
        return at.tally.skip(f"{at.name}/{where}/{name}", why)
    steps = {"gen_tokens": recorded.shape[-1], "gen_position_ids": recorded.shape[-1] + 1}
    if name in steps:
        out = run.generated(steps[name])
        return at.compare(name, where, out.tokens if name == "gen_tokens" else out.positions, recorded)
    best = run.generated(recorded.shape[-2]).logits.reshape(-1, run.logits.shape[-1])  # (B * n, V)
    flat = recorded.reshape(-1, recorded.shape[-1])
    if len(best) != len(flat) or name not in ("gen_top5_ids", "gen_top5_logits"):
        return at.unknown(f"{where}/{name}")
    top = best.topk(flat.shape[-1])
    if name == "gen_top5_logits":
        return at.compare(name, where, top.values, flat)
    tied = (best.gather(1, flat) - top.values).abs() < TIE
    at.compare(name, where, torch.where(tied, flat, top.indices), flat)


def _compare_single(at: Comparison, run: Run, where: str, name: str, recorded: Tensor) -> None:
    """What each row gives alone: ours alone, and ours in the batch, must both give it."""
    alone = [Run(at.model, at.case.alone(row), run.options) for row in range(len(at.case.rows))]
    if name == "logits_last":
        at.compare("single_row_logits_last", f"{where} (alone)", torch.cat([x.logits[:, -1] for x in alone]), recorded)
        at.compare("single_row_logits_last", f"{where} (batch)", run.logits[:, -1], recorded)
    elif name == "gen_tokens":
        n = recorded.shape[-1]
        tokens = torch.cat([x.generated(n).tokens for x in alone])
        at.compare("single_row_gen_tokens", f"{where} (alone)", tokens, recorded)
        at.compare("single_row_gen_tokens", f"{where} (batch)", run.generated(n).tokens, recorded)
    else:
        at.unknown(f"{where}/single_row_{name}")


def _compare_manifest(at: Comparison, run: Run, variant: dict[str, Any]) -> None:
    """Compare the numbers that only the manifest holds."""
    where = variant["id"]
    if "kept" in variant:
        for ours, kept in zip(run.counts(), variant["kept"], strict=True):
            at.compare("kept", where, [ours[key] for key in kept], torch.tensor(list(kept.values())))
    if "score_gap_at_cut" in variant:
        gaps = torch.tensor(variant["score_gap_at_cut"], dtype=torch.float64)
        at.compare("score_gap_at_cut", where, torch.tensor(run.gaps(), dtype=torch.float64), gaps)
    if "gen_tokens" not in variant:
        return
    tokens = torch.tensor(variant["gen_tokens"])
    out: Generated = run.generated(tokens.shape[-1])
    at.compare("gen_tokens", where, out.tokens.reshape(tokens.shape), tokens)
    if "greedy_margin_min" in variant:
        best = out.logits.topk(2).values
        margin = (best[..., 0] - best[..., 1]).min()
        at.compare("greedy_margin_min", where, margin, torch.tensor(variant["greedy_margin_min"]))
    if "decode_cache_lengths" in variant:
        lengths = torch.tensor(variant["decode_cache_lengths"])
        at.compare("decode_cache_lengths", where, torch.tensor(out.cached)[:, 0], lengths)
