"""Whatever is typed ends in a run or in one message. `benchmarks/robustness.py overrides` tries far more."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cnn_lab.errors import ConfigError
from cnn_lab.settings.config import check_config
from conftest import compose_config
from overrides import SMALL, find_problem, lists_of_overrides, run_with

# Each of these has ended in a traceback, in a crash, in stray files, or in no end at all.
REFUSED_EARLY = {
    "model.hidden=[1000000000]": "model: this network would have 207,000,000,106 parameters, and 500,000,000 is the most",
    "model.paddings=1500 model.hidden=[]": "values for each image, and 20,000,000 is the most: use fewer channels",
    "model.kernel_sizes=4095": "multiply-adds for each image, and 10,000,000,000 is the most",
    "data.num_workers=1000": "data.num_workers=1000 is out of range: it must be at least 0 and at most 64",
    "trainer.accumulate_grad_batches=1000000000000000000000": "is out of range: it must have at most 18 digits",
    "data.mean=nan": "data.mean=nan is out of range: it must be a finite number",
    "trainer.limit_train_batches=0": "trainer.limit_train_batches=0 is out of range: it must be above 0",
    "trainer.val_check_interval=0": "trainer.val_check_interval=0 is out of range: it must be above 0",
    "scheduler=plateau trainer.limit_val_batches=0": "scheduler.monitor=val/loss needs validation after each epoch",
    "scheduler=plateau trainer.check_val_every_n_epoch=2": "which trainer.check_val_every_n_epoch=2 leaves out",
    "early_stopping.patience=1 trainer.limit_val_batches=0": "early_stopping.monitor=val/loss needs validation",
    "+scheduler.eta_min=1": "scheduler.eta_min is no setting of cnn_lab.scheduler.constant (it has none)",
}
REFUSED = {
    "label=${nope}": "label: Interpolation key 'nope' not found",
    "trainer.limit_test_batches=0.001": "trainer.limit_test_batches=0.001 is less than one of 5 batches",
    "trainer.val_check_interval=5": "trainer: `val_check_interval` (5) must be less than or equal to the number",
    "trainer.devices=4095": "trainer.devices=4095 would start 4095 processes on a CPU with",
    "trainer.num_nodes=2": "trainer.num_nodes=2: nothing says where the other machines are",
    "trainer.strategy=ddp_notebook": "trainer.strategy=ddp_notebook copies a run that has begun",
    "trainer._target_=torch.nn.Identity": "trainer._target_=torch.nn.Identity makes no lightning.pytorch.Trainer",
    "optimizer._target_=torch.nn.Identity": "optimizer._target_=torch.nn.Identity makes no Optimizer",
    "scheduler=cosine trainer.max_epochs=null": "scheduler=cosine needs to know where the run ends",
    "optimizer=[[]]": "what was typed cannot be read (",
    "hydra.run.dir=foo": "hydra.run.dir=foo cannot be set: of Hydra's own settings there are hydra.launcher",
    "hydra.output_subdir=../../x": "hydra.output_subdir=../../x cannot be set",
}
# And these have failed, although each is a run.
RUNS = [
    "label=${seed} model.dropout=${label_smoothing}",
    "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed",
    "trainer.precision=64-true",
    "trainer.precision=bf16-true",
    "trainer.overfit_batches=2 trainer.max_epochs=2",
    "optimizer.lr={_target_:torch.tensor,data:0.1}",
    "trainer.max_time=00:00:00:00",
    "trainer.check_val_every_n_epoch=2 trainer.max_epochs=3",
]


@pytest.mark.parametrize("typed", REFUSED_EARLY)
def test_a_mistake_that_no_check_found(typed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_config(compose_config(*SMALL, *typed.split()))
    assert REFUSED_EARLY[typed] in str(refused.value)


@pytest.mark.parametrize("typed", REFUSED)
def test_a_mistake_that_had_no_message(typed: str) -> None:
    ending = run_with(typed.split())
    assert (ending.code, ending.left, ending.err.count("\n")) == (2, [], 1), ending.err
    assert REFUSED[typed] in ending.err


@pytest.mark.parametrize("typed", RUNS)
def test_settings_that_had_no_run(typed: str) -> None:
    ending = run_with(typed.split())
    assert not find_problem(ending), ending.err
    assert ending.code == 0


@settings(
    max_examples=30,
    phases=[Phase.generate, Phase.shrink],
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(lists_of_overrides())
def test_whatever_is_typed_ends_in_a_run_or_in_one_message(typed: list[str]) -> None:
    ending = run_with(typed)
    assert not find_problem(ending), f"{typed}: {find_problem(ending)}\n{ending.err}"
