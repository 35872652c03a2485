"""The scripts in tools/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.program import ROOT
from tests.support.smalltrain import SIZES
from tools import train_tiny


def test_a_recipe_of_the_tiny_model_is_trained_by_the_script(tmp_path: Path) -> None:
    sizes = "".join(
        f"{name} = {list(n) if isinstance(n, tuple) else n}\n" for name, n in vars(SIZES).items() if name[0] != "_"
    )
    stage = '[[stage]]\nname = "first"\ntask = "encoders"\nsteps = 1\nbatch = 1\nmoments = 1\n'
    (tmp_path / "r.toml").write_text(f"[sizes]\n{sizes}{stage}")
    train_tiny.main(tmp_path / "r.toml", None, tmp_path / "out")
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_the_prefill_of_any_known_models_sizes_can_be_measured() -> None:
    command = [sys.executable, "-m", "bench.prefill", "--model", "tiny", "--tokens", "200", "--layers", "2"]
    done = subprocess.run(
        [*command, "--repeat", "1", "--keep", "0.1", "--json"], cwd=ROOT, capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert [run["run"] for run in found["runs"]] == ["full", "cs2 0.1", "bare 0.1"]
    assert found["runs"][0]["speedup"] == 1.0 and all(run["seconds"] > 0 for run in found["runs"])
