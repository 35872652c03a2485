"""The scripts in tools/."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.from_pretrained import load
from tests.support.program import ROOT
from tests.support.smalltrain import SIZES
from tools import bundle, train_tiny
from tools.tiny.build import build_backbone
from tools.tiny.encoders import Batches, Taught, amplify
from tools.tiny.labels import OBJECT_CLASSES
from tools.tiny.recipe import TinyStage


def test_every_module_for_developers_is_imported() -> None:
    paths = [path.relative_to(ROOT) for folder in ("bench", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts) for path in paths if path.stem != "__init__"]
    for name in names:
        importlib.import_module(name)
    assert len(names) > 40


def test_a_recipe_of_the_tiny_model_is_trained_by_the_script(tmp_path: Path) -> None:
    sizes = "".join(
        f"{name} = {list(n) if isinstance(n, tuple) else n}\n" for name, n in vars(SIZES).items() if name[0] != "_"
    )
    stage = '[[stage]]\nname = "first"\ntask = "encoders"\nsteps = 1\nbatch = 1\nmoments = 1\n'
    (tmp_path / "r.toml").write_text(f"[sizes]\n{sizes}{stage}")
    train_tiny.main(tmp_path / "r.toml", None, tmp_path / "out")
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_what_a_head_reads_is_amplified_and_nothing_else() -> None:
    torch.manual_seed(0)
    layer, head = torch.nn.Linear(8, 12), torch.randn(3, 12)
    x = torch.randn(50, 8)
    before = layer(x)
    amplify(layer, head, 3.0)
    after, apart = layer(x), head - head.mean(0)  # logits without what all classes share
    torch.testing.assert_close(after @ apart.T, 3 * before @ apart.T)
    others = torch.linalg.svd(apart).Vh[2:]  # directions that tell no classes apart
    torch.testing.assert_close(after @ others.T, before @ others.T)


def test_names_and_sides_start_as_what_the_heads_read() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(SIZES, "small")
    taught = Taught(backbone)
    taught.align(backbone, Batches(TinyStage("encoders", "encoders", steps=1, batch=2), 1, backbone.resolution)[0])
    inputs, outputs = backbone.text.embed_tokens.weight.detach(), backbone.thinker.lm_head.weight.detach()
    objects, quadrants = (head.weight.detach() for head in (taught.video_heads.object, taught.video_heads.quadrant))

    def of(word: str) -> int:
        return int(backbone.tokenizer.encode(word, add_special_tokens=False)[-1])

    cat = objects.view(2, -1, SIZES.width).mean(0)[OBJECT_CLASSES.index("cat")]
    for weights in (inputs, outputs):
        assert float(torch.cosine_similarity(weights[of("cat")], cat, 0)) == pytest.approx(1, abs=1e-4)
    left, right = (outputs[of(f"top {side}")] for side in ("left", "right"))
    torch.testing.assert_close(left, -right)
    read = quadrants @ left
    assert read[0] + read[2] > read[1] + read[3]  # the quadrants on the left
    attention = backbone.text.layers[0].self_attn
    first = attention.head_dim  # the head that notices change begins otherwise
    torch.testing.assert_close(attention.o_proj.weight[:, first:], attention.v_proj.weight[first:].T)


def test_the_prefill_of_any_known_models_sizes_can_be_measured() -> None:
    command = [sys.executable, "-m", "bench.prefill", "--model", "tiny", "--tokens", "200", "--layers", "2"]
    done = subprocess.run(
        [*command, "--repeat", "1", "--keep", "0.1", "--json"], cwd=ROOT, capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert [run["run"] for run in found["runs"]] == ["full", "cs2 0.1", "bare 0.1"]
    assert found["runs"][0]["speedup"] == 1.0 and all(run["seconds"] > 0 for run in found["runs"])


def test_a_finished_run_becomes_the_bundled_model_and_an_unfinished_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled, out = tmp_path / "assets" / "tiny", tmp_path / "out"
    monkeypatch.setattr(bundle, "TO", bundled)
    shutil.copytree(ASSETS / "tiny", out / "soft" / "model", ignore=shutil.ignore_patterns("sieve-fused"))
    config = out / "soft" / "model" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "reuse"}))
    bundled.mkdir(parents=True)
    (bundled / "old").touch()
    with pytest.raises(typer.BadParameter, match=r"fused.*does not exist"):
        bundle.main(out)
    assert [path.name for path in bundled.iterdir()] == ["old"]
    shutil.copytree(ASSETS / "tiny" / "sieve-fused", out / "fused" / "model" / "sieve")
    bundle.main(out)
    assert not (bundled / "old").exists()
    for sieve, form in ((None, "extractive"), (str(bundled / "sieve-fused"), "fused")):
        made = load(str(bundled), device="cpu", sieve=sieve)
        assert made.sieve is not None and made.sieve.options.form == form and made.backbone.reuse == bundle.REUSE
