"""The start of the tiny model's decoder, and the statements that it learns from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echoingpixels.synth.questions import OPTIONS, questions
from echoingpixels.train.examples import STATEMENT
from tools.tiny.build import build_thinker, build_tokenizer, notice_change
from tools.tiny.recipe import Sizes
from tools.tiny.sample import planned
from tools.tiny.statements import statements

SIZES = Sizes(layers=1, sections=(4, 2, 2, 16))
STEP = 25  # positions of a temporal step


@pytest.fixture(scope="module")
def text() -> Any:
    """An untrained decoder of one layer."""
    torch.manual_seed(0)
    return build_thinker(SIZES, build_tokenizer()).model.language_model


@torch.no_grad()
def first_head(text: Any, tokens: Tensor, times: list[int]) -> Tensor:
    """The output (L, D) of the first layer's first head for tokens (L, D) at these times."""
    layer, positions = text.layers[0], torch.tensor(times).expand(3, 1, -1)
    hidden = layer.input_layernorm(tokens[None])
    mask = torch.full((1, 1, len(times), len(times)), -torch.inf).triu(1)
    whole = layer.self_attn.o_proj.weight.clone()
    layer.self_attn.o_proj.weight[:, layer.self_attn.head_dim :] = 0
    out = layer.self_attn(hidden, attention_mask=mask, position_embeddings=text.rotary_emb(hidden, positions))[0][0]
    layer.self_attn.o_proj.weight.copy_(whole)
    return out


def test_a_head_subtracts_an_object_that_was_there_a_step_before(text: Any) -> None:
    torch.manual_seed(1)
    objects = torch.nn.functional.normalize(torch.randn(24, SIZES.width), dim=-1)
    notice_change(text, objects, STEP)
    cat, dog, ground = objects[0], objects[1], torch.nn.functional.normalize(torch.randn(SIZES.width), dim=0)
    seen = {0: (ground, ground), 25: (cat, ground), 50: (cat, dog), 75: (cat, dog), 100: (ground, dog)}
    tokens = torch.stack([token for pair in seen.values() for token in pair])
    out = first_head(text, tokens, [time for time in seen for _ in range(2)])
    both = torch.stack([cat, dog]) - objects.mean(0)
    read = out @ torch.nn.functional.normalize(both, dim=-1).T  # (L, cat and dog)
    of_cat, of_dog = read[0::2, 0], read[1::2, 1]
    assert max(of_cat[2], of_cat[3], of_dog[3], of_dog[4]) < -4 < -1 < min(of_cat[1], of_dog[2])


def test_statements_are_true_and_have_kinds_of_their_own() -> None:
    kinds: Counter[str] = Counter()
    for index in range(60):
        timeline = planned(3, index)
        starts = Counter(event.what for event in timeline.events)
        first = {event.what: event for event in reversed(timeline.events)}
        for fact in statements(timeline, np.random.default_rng(index)):
            kinds[fact.kind] += 1
            *how, name = fact.question.split()
            if fact.kind == "<corner>":
                assert fact.answer == (first[name].corner if name in first else "no")
            elif fact.kind == "<count>":
                assert OPTIONS["count_sound"].index(fact.answer) == starts[name]
            elif fact.kind == "<order>":
                assert fact.answer == ("yes" if first[how[0]].start < first[name].start else "no")
            else:
                assert fact.kind == "<together>" and how[0] in ("visible", "plays", "spoken")
                asked, found = first[name], [event for event in timeline.events if event.what == fact.answer]
                assert any(asked.start < event.end and event.start < asked.end for event in found)
        assert not any(q.kind.startswith(STATEMENT) for q in questions(timeline, np.random.default_rng(0)))
    assert len(kinds) == 4 and min(kinds.values()) > 50
