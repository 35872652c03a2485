"""Training stage by stage on the small model: trained and frozen parts, resuming, the Trainer against a plain loop."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from echoingpixels.errors import DataError, ModelError, OptionError
from echoingpixels.from_pretrained import load
from echoingpixels.train import checkpoint
from echoingpixels.train.draws import Draws
from echoingpixels.train.recipe import Gate, Lora, Recipe, Stage
from echoingpixels.train.run import sieve_of
from echoingpixels.train.trainer import LOWEST, rate
from tests.support.program import environment
from tests.support.smalltrain import DISTIL, ENCODERS, FULL, SIEVE, learned, recipe, train
from tools.tiny.run import TinyRun

WHOLE = recipe(ENCODERS, FULL, DISTIL, SIEVE)
NOISY = replace(SIEVE, name="noisy", gate="gumbel", steps=6)
ALONE = replace(SIEVE, name="alone", train=("sieve",), full_every=0, form="extractive")
KILL = """
import os, signal, sys
from pathlib import Path
from echoingpixels.train import run
from tests.train import test_train_stages as t

def dies(backbone, sieve, draw, plain=run.loss_of):
    if draw.item == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(backbone, sieve, draw)

run.loss_of = dies
t.train(t.recipe(t.ENCODERS, t.FULL, t.NOISY), Path(sys.argv[1]), ("noisy",))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("trained")
    assert train(WHOLE, out) == out / "model"
    return out


@pytest.fixture
def begun(trained: Path, tmp_path: Path) -> Path:
    """A folder in which the encoders, the bank and stage full are complete."""
    for name in ("encoders", "bank", "full"):
        shutil.copytree(trained / name, tmp_path / "begun" / name)
        if name != "bank":
            shutil.copy(trained / f"{name}.csv", tmp_path / "begun")
    return tmp_path / "begun"


def steps(path: Path) -> list[str]:
    with path.open() as file:
        return [row["step"] for row in csv.DictReader(file)]


def weights(model: Path) -> dict[str, Tensor]:
    return load_file(model / "model.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts, by name, whose weights differ."""
    assert before.keys() == after.keys()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {part for part in ("visual", "audio_tower", "lm_head") if any(part in n for n in names)} | {
        "text" for n in names if ".layers." in n and "visual" not in n and "audio" not in n
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_stage_leaves_figures_and_a_model_that_loads(trained: Path) -> None:
    for stage in WHOLE.stage:
        assert steps(trained / f"{stage.name}.csv") == [str(n) for n in sorted({2, stage.steps})]
        assert len(list((trained / stage.name).glob("checkpoint-*"))) == 1
        assert load(str(trained / stage.name / "model")).backbone.shape.layers == 2
    assert (trained / "model").resolve() == (trained / "sieve" / "model").resolve()
    assert load(str(trained / "full" / "model")).sieve is None
    sieve = load(str(trained / "model")).sieve
    assert sieve is not None and sieve.options.form == "extractive" and sieve.options.sections == (3, 3, 3, 3)
    with (trained / "sieve.csv").open() as file:
        row = next(csv.DictReader(file))
    assert list(row)[:2] == ["step", "seconds"]
    assert {"loss", "right", "right_full", "keep_0.2", "keep_0.05", "all", "valid_loss"} <= row.keys()


def test_only_the_parts_that_learn_change(trained: Path) -> None:
    encoders, full, distil, sieve = (weights(trained / stage.name / "model") for stage in WHOLE.stage)
    assert changed(encoders, full) == {"text", "lm_head"}
    assert changed(full, distil) == set()
    assert changed(distil, sieve) == {"text", "lm_head"}
    sieves = [load_file(trained / name / "model" / "sieve" / "sieve.safetensors") for name in ("distil", "sieve")]
    assert not same(*sieves)


@pytest.mark.parametrize("gate", ["straight-through", "soft"])
def test_a_frozen_decoder_does_not_change_while_its_sieve_learns_answers(begun: Path, gate: Gate) -> None:
    train(recipe(ENCODERS, FULL, replace(ALONE, gate=gate)), begun, ("alone",))
    assert changed(weights(begun / "full" / "model"), weights(begun / "alone" / "model")) == set()
    assert all(name.startswith("parts.sieve.") for name in learned(begun / "alone"))


def test_a_soft_gate_is_refused_where_the_encoders_output_enters_the_decoder(begun: Path) -> None:
    with pytest.raises(DataError, match="soft gate and a fused sieve"):
        train(recipe(ENCODERS, FULL, replace(ALONE, gate="soft", form="fused")), begun, ("alone",))


@settings(max_examples=50, deadline=None)
@given(first=st.floats(0.01, 2), last=st.floats(0.01, 2), steps=st.integers(1, 50).map(lambda half: 2 * half))
def test_a_soft_gate_narrows_from_the_first_temperature_to_the_last(first: float, last: float, steps: int) -> None:
    stage = replace(ALONE, gate="soft", steps=steps, temperature=(first, last))
    at = [stage.temperature_at(step) for step in (0, steps // 2, steps)]
    assert at == pytest.approx([first, (first * last) ** 0.5, last])
    assert ALONE.temperature_at(0) is None


def test_a_bfloat16_model_learns_in_float32(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "bank", tmp_path / "bank")
    stages = (DISTIL, replace(SIEVE, lora=Lora(rank=2), form="fused"), replace(FULL, share=(1.0,)))
    wanted = recipe(*stages, model=str(trained / "full" / "model"))
    run = TinyRun(wanted, tmp_path)
    run.backbone.thinker.to(torch.bfloat16)  # as a large model is, on any device
    for number, stage in enumerate(stages, 1):
        run.stage(stage, number, train=True)
        assert {weight.dtype for weight in learned(tmp_path / stage.name).values()} == {torch.float32}
        assert {weight.dtype for weight in run.backbone.thinker.model.visual.parameters()} == {torch.bfloat16}
        if stage.name != "full":
            assert run.backbone.dtype == torch.bfloat16


def test_a_complete_run_is_only_read(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoingpixels.train.run.teach", lambda *_: pytest.fail("a complete stage was trained"))
    assert train(WHOLE, trained) == trained / "model"


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(recipe(ENCODERS, seed=seed), tmp_path / name, ("encoders",))
    a, b, c = (learned(tmp_path / name / "encoders") for name in "abc")
    assert same(a, b) and not same(a, c)


def test_the_trainer_equals_a_plain_loop(trained: Path) -> None:
    run = TinyRun(WHOLE, trained)
    run.stage(ENCODERS, 1, train=False)
    modules, loss, _ = run.parts(FULL)
    source, _ = run.sources()
    draws = Draws(source, FULL, WHOLE.seed, 2)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=FULL.lr, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(FULL.steps):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, _ = loss(draws[step])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = FULL.lr * rate(FULL, step)
        optimizer.step()
    expected = learned(trained / "full")
    for name, weight in modules.named_parameters():
        torch.testing.assert_close(weight.detach(), expected["parts." + name])


def test_a_killed_run_resumes_to_the_same_weights_and_figures(begun: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(begun, killed)
    whole = recipe(ENCODERS, FULL, NOISY)
    train(whole, begun, ("noisy",))
    done = subprocess.run([sys.executable, "-c", KILL, str(killed)], env=environment(), check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    saved = checkpoint.last(killed / "noisy")
    assert checkpoint.step_of(saved) == 4
    (killed / "noisy" / "checkpoint-6").mkdir()  # left by a kill during saving
    with (killed / "noisy.csv").open("a") as file:
        file.write("6,9,1\n7,")
    train(whole, killed, ("noisy",))
    assert same(learned(killed / "noisy"), learned(begun / "noisy"))
    a, b = ([row.split(",") for row in (out / "noisy.csv").read_text().splitlines()] for out in (killed, begun))
    assert [row[:1] + row[2:] for row in a] == [row[:1] + row[2:] for row in b]  # all but the seconds
    assert steps(killed / "noisy.csv") == ["2", "4", "6"]
    seconds = [int(row[1]) for row in a[1:]]
    assert seconds == sorted(seconds)


def test_a_stage_may_be_made_longer(begun: Path) -> None:
    longer = recipe(ENCODERS, replace(FULL, steps=5))
    train(longer, begun, ("full",))
    assert steps(begun / "full.csv") == ["2", "3", "4", "5"]
    assert load(str(begun / "model")).sieve is None


def test_small_batches_accumulate_to_a_step(begun: Path) -> None:
    stage = replace(FULL, name="slow", accumulate=2, steps=2)
    train(recipe(ENCODERS, FULL, stage), begun, ("slow",))
    assert steps(begun / "slow.csv") == ["2"]


def test_a_stage_waits_for_those_before_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'encoders' is not complete"):
        train(WHOLE, tmp_path, ("full",))


def test_an_unknown_stage_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'cs2'.*encoders, bank, full, distil, sieve"):
        train(WHOLE, tmp_path, ("cs2",))


def test_a_checkpoint_of_another_recipe_is_refused(begun: Path) -> None:
    with pytest.raises(DataError, match=r"checkpoint-3 does not fit.*another --out"):
        train(replace(WHOLE, sizes=replace(WHOLE.sizes, mlp=32)), begun, ("distil",))


def test_lora_trains_adapters_alone_and_merges_them(trained: Path, tmp_path: Path) -> None:
    base = trained / "full" / "model"
    stage = replace(FULL, name="lora", lora=Lora(rank=2, targets=("q_proj", "down_proj")), share=(1.0,))
    shutil.copytree(trained / "bank", tmp_path / "bank")
    model = train(recipe(stage, model=str(base)), tmp_path, ("lora",))
    assert all("lora_" in name for name in learned(tmp_path / "lora"))
    before, after = weights(base), weights(model)
    differ = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".")[-2] for name in differ} == {"q_proj", "down_proj"}


def test_lora_needs_names_of_existing_modules(trained: Path, tmp_path: Path) -> None:
    stage = replace(FULL, lora=Lora(targets=("query",)))
    with pytest.raises(DataError, match="no module named query"):
        train(recipe(stage, model=str(trained / "full" / "model")), tmp_path, ("full",))


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe(ENCODERS, log="tensorboard"), tmp_path, ("encoders",))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "encoders")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 3]
    assert not (tmp_path / "encoders.csv").exists()


@pytest.mark.parametrize(
    ("package", "wanted"),
    [
        ("tensorboard", recipe(ENCODERS, log="tensorboard")),
        ("peft", recipe(ENCODERS, replace(FULL, lora=Lora()))),
    ],
)
def test_a_missing_package_names_the_extra(
    package: str, wanted: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echoingpixels.train.trainer.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=rf"needs the package {package}.*echoingpixels\[train\]"):
        train(wanted, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stage_continues_the_sieve_before_it(trained: Path) -> None:
    model = load(str(trained / "model"))
    before = model.sieve
    assert before is not None
    options = {"form": "fused", "tau": 2.0, "gate": "gumbel", "bidirectional": False, "question": False}
    after = sieve_of(model.backbone, before, replace(SIEVE, layers=None, **options))  # type: ignore[arg-type]
    assert same(before.state_dict(), after.state_dict())
    assert after.options == replace(
        before.options, form="fused", tau=2.0, gumbel=True, bidirectional=False, question=False
    )
    assert sieve_of(model.backbone, before, replace(SIEVE, layers=None)).options == before.options  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"layers = 2.*has 1"):
        sieve_of(model.backbone, before, replace(SIEVE, layers=2))  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(steps=st.integers(2, 200), warm_up=st.floats(0, 0.5), steady=st.floats(0.5, 1))
def test_the_rate_rises_stays_and_falls(steps: int, warm_up: float, steady: float) -> None:
    stage = Stage("s", "answers", steps=steps, warm_up=warm_up, steady=steady)
    rates = [rate(stage, step) for step in range(steps + 1)]
    top, edge = max(1, int(warm_up * steps)), int(steady * steps)
    assert rates[: min(top, edge)] == pytest.approx([(step + 1) / top for step in range(min(top, edge))])
    assert rates[top - 1 : edge] == [1.0] * len(rates[top - 1 : edge])
    assert rates[edge:] == sorted(rates[edge:], reverse=True)
    assert rates[-1] == pytest.approx(1.0 if edge == steps else LOWEST)
