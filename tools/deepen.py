"""Adds decoder layers to a model without changing its answers: copies of other layers whose output is zero.

Source: LLaMA Pro (arXiv 2401.02415, section 3.2): copies with two output projections of zero, spread over the depth.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from echoingpixels.backbones.qwen_omni import QwenOmni
from echoingpixels.from_pretrained import load, save


def deepen(backbone: QwenOmni, layers: int) -> None:
    """Grow the decoder in place to `layers` layers, the new ones evenly spread."""
    text, config = backbone.text, backbone.text.config
    old, more = len(text.layers), layers - len(text.layers)
    after = {(i + 1) * old // more - 1 for i in range(more)}
    grown = nn.ModuleList()
    for i, layer in enumerate(text.layers):
        grown.append(layer)
        if i in after:
            twin = copy.deepcopy(layer)
            nn.init.zeros_(twin.self_attn.o_proj.weight)
            nn.init.zeros_(twin.mlp.down_proj.weight)
            grown.append(twin)
    for i, layer in enumerate(grown):
        layer.self_attn.layer_idx = i
    text.layers = grown
    config.num_hidden_layers = len(grown)
    config.layer_types = [config.layer_types[0]] * len(grown)


def main(
    model: Annotated[str, typer.Argument(help="A known name or a folder.")],
    out: Annotated[Path, typer.Argument(help="The output folder.")],
    layers: Annotated[int, typer.Option(min=2, help="At most twice what the model has.")] = 6,
) -> None:
    """Write MODEL with more decoder layers, and its unchanged sieve, to OUT."""
    loaded = load(model)
    assert isinstance(loaded.backbone, QwenOmni)
    with torch.no_grad():
        deepen(loaded.backbone, layers)
    save(loaded, out)


if __name__ == "__main__":
    typer.run(main)
