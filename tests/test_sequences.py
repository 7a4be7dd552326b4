"""Whatever sequence of commands was typed, the record is true; `benchmarks/robustness.py sequences` looks for longer."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from brought import find_belongings
from cnn_lab.runs.record import read_rows
from cnn_lab.sources.arrays import read_arrays
from sequences import Sequences

A_MINUTE = settings(
    max_examples=2,
    stateful_step_count=5,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_any_sequence_of_commands_leaves_a_true_record() -> None:
    run_state_machine_as_test(Sequences, settings=A_MINUTE)


def play(state: Sequences, **chosen: str) -> Path:
    """Train a run with these settings, a group's dot written as two underscores; returns its path in `outputs`."""
    return state.train({key.replace("__", "."): value for key, value in chosen.items()}, None).values[0]


def validate_the_test_images_every_other_epoch(state: Sequences) -> None:
    play(state, data__test_each_epoch="true", trainer__check_val_every_n_epoch="2")


def try_validation_before_an_epoch_without_it(state: Sequences) -> None:
    run = play(state, trainer__num_sanity_val_steps="1", trainer__check_val_every_n_epoch="2")
    assert [row["val/accuracy"] is None for row in read_rows(state.outputs / run)] == [True, False]


def end_before_the_first_validation(state: Sequences) -> None:
    play(state, trainer__max_steps="1", early_stopping__patience="1")


def train_for_more_steps_after_an_epoch(state: Sequences) -> None:
    run = play(state, trainer__max_steps="3")
    state.extend(run, "max_steps", 1, None)
    state.extend(run, "max_steps", 3, None)
    assert (
        f"trainer.max_steps cannot change: {state.outputs / run} ended inside epoch 2 and would continue"
        in state.said
    )


def stop_in_the_last_step_that_is_allowed(state: Sequences) -> None:
    (run,) = state.train({"trainer.max_steps": "1"}, (1, signal.SIGINT)).values
    state.resume(run, None)


def give_fewer_steps_than_were_taken(state: Sequences) -> None:
    (run,) = state.train({}, (4, signal.SIGTERM)).values
    state.go_on(run, {"trainer.max_steps": "1"}, None)
    assert "; give more" in state.said


def give_more_steps_to_a_run_that_was_stopped_in_its_test(state: Sequences) -> None:
    (run,) = state.train({}, (13, signal.SIGINT)).values
    state.go_on(run, {"trainer.max_steps": "9"}, None)
    assert "to train it for longer, add trainer.max_epochs=4, for example" in state.said
    state.go_on(run, {"trainer.max_epochs": "3"}, (1, signal.SIGTERM))
    state.resume(run, None)


def stop_where_numbers_have_64_bits(state: Sequences) -> None:
    (run,) = state.train({"trainer.precision": "64-true"}, (6, signal.SIGINT)).values
    state.resume(run, None)


def go_on_where_the_images_have_moved(state: Sequences) -> None:
    here, there = state.home / "here", state.home / "there"
    shutil.copytree(find_belongings() / "a", here)
    images = {"data": "arrays", "data.train_size": None, "data.root": f"{here}/own.npz"}
    (run,) = state.train(images, (4, signal.SIGTERM)).values
    here.rename(there)
    read_arrays.cache_clear()  # as in a process of its own
    assert state.command("train", f"resume={state.outputs / run}") == 2
    assert state.command("train", f"resume={state.outputs / run}", f"data.root={there}/own.npz") == 0
    state.settings[run]["data.root"] = f"{there}/own.npz"
    state.check_end(run, 0)


FOUND = [
    go_on_where_the_images_have_moved,
    stop_where_numbers_have_64_bits,
    give_more_steps_to_a_run_that_was_stopped_in_its_test,
    give_fewer_steps_than_were_taken,
    validate_the_test_images_every_other_epoch,
    try_validation_before_an_epoch_without_it,
    end_before_the_first_validation,
    train_for_more_steps_after_an_epoch,
    stop_in_the_last_step_that_is_allowed,
]


@pytest.mark.parametrize("sequence", FOUND, ids=lambda sequence: sequence.__name__)
def test_what_once_broke(sequence: Callable[[Sequences], None]) -> None:
    state = Sequences()
    try:
        sequence(state)
    finally:
        state.teardown()
