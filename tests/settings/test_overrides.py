"""Whatever is typed ends in a run or in one message. `benchmarks/robustness.py overrides` tries far more."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from overrides import belongings, find_problem, leftovers, lists_of_overrides, run_with

# Each of these has failed, although it is a run.
RUNS = [
    "label=${seed} model.dropout=${loss.label_smoothing} trainer.max_time=00:00:00:00",
    "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed optimizer.lr={_target_:torch.tensor,data:0.1}",
    "trainer.precision=64-true trainer.overfit_batches=2",
    "trainer.precision=bf16-true trainer.check_val_every_n_epoch=2 trainer.max_epochs=3",
]


@pytest.mark.parametrize("typed", RUNS)
def test_settings_that_had_no_run(typed: str) -> None:
    ending = run_with(typed.split())
    assert not find_problem(ending), ending.err
    assert ending.code == 0


def test_what_images_refuse_leaves_nothing_in_another_store() -> None:
    ending = run_with(["logger=mlflow", "data.train_size=60000"])
    assert not find_problem(ending), (ending.err, ending.left)
    assert ending.code == 2
    assert "55,000" in ending.err or "59,500" in ending.err


A_MOMENT = settings(
    phases=[Phase.generate],  # to shrink one takes minutes, and all are short
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@settings(A_MOMENT, max_examples=12)
@given(lists_of_overrides())
def test_whatever_is_typed_ends_in_a_run_or_in_one_message(typed: list[str]) -> None:
    ending = run_with(typed)
    assert not find_problem(ending), f"{typed}: {find_problem(ending)}\n{ending.err}"


@settings(A_MOMENT, max_examples=6)
@given(belongings(), leftovers())
def test_so_does_what_a_user_brings_along_wherever_it_runs(
    typed: list[str], variables: dict[str, str]
) -> None:
    ending = run_with(typed, variables)
    assert not find_problem(ending), f"{variables} {typed}: {find_problem(ending)}\n{ending.err}"
