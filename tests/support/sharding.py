"""`ep train` in one of several CPU processes, sharded by FSDP on request: `python -m tests.support.sharding train …`.

accelerate supports FSDP on accelerators alone. Here processes on a CPU have one of those kinds; everything else is as
under `accelerate launch --config_file recipes/fsdp.yaml`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.program import environment

CONFIG = Path(__file__).parents[2] / "recipes" / "fsdp.yaml"


class Kinds:
    """accelerate's kinds of distribution, with that of CPUs also in place of another."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return self.real.MULTI_CPU if name == "MULTI_SDAA" else getattr(self.real, name)


def fsdp() -> dict[str, str]:
    """The environment of `accelerate launch` with recipes/fsdp.yaml."""
    config = yaml.safe_load(CONFIG.read_text())
    named = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
    settings = {named.get(name, name.upper()): str(value).lower() for name, value in config["fsdp_config"].items()}
    for name in ("FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE"):
        key = next(key for key in config["fsdp_config"] if named.get(key, key.upper()) == name)
        settings[name] = config["fsdp_config"][key]
    return {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": config["mixed_precision"], **settings}


def launch(kind: str, processes: int, *arguments: object) -> None:
    """Run `ep train ARGUMENTS` in several processes, kind `fsdp` or `ddp`; AssertionError with their output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(processes):
        mine = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes)}
        env = {**environment(), **world, **mine, **(fsdp() if kind == "fsdp" else {})}
        command = [sys.executable, "-m", "tests.support.sharding", "train", *map(str, arguments)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    output = [one.communicate(timeout=280)[0] for one in started]
    assert [one.returncode for one in started] == [0] * processes, "\n".join(output)


if __name__ == "__main__":
    import accelerate.state

    if os.environ.get("ACCELERATE_USE_FSDP"):
        accelerate.state.DistributedType = Kinds(accelerate.state.DistributedType)
    from epcli.main import main

    main(sys.argv[1:])
