"""Runs that are stopped, killed or out of room, and go on."""

import csv
import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.lock import hold
from cnn_lab.runs.resume import plan_resume
from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.training import train
from conftest import compose_config, full_disk, only_run, read_result, train_command
from forked import CONTEXT

STEPS, EPOCHS = 6, 3
SMALL = [
    "data.train_size=400", "data.val_size=200", "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]",
    "pictures.enabled=false", f"trainer.limit_train_batches={STEPS}", "trainer.limit_test_batches=1",
    f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1",
]  # fmt: skip
OPTIMIZERS = {path.stem for path in (PROJECT / "conf" / "optimizer").glob("*.yaml")}
SCHEDULERS = {path.stem for path in (PROJECT / "conf" / "scheduler").glob("*.yaml")}
OF_TORCHMETRICS = "torchmetrics.classification.Multiclass"
OWN = [  # what they gather of half an epoch: sums, and lists
    f"metrics.f1._target_={OF_TORCHMETRICS}F1Score", f"metrics.auroc._target_={OF_TORCHMETRICS}AUROC",
    "callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor",
]  # fmt: skip
# Every optimizer and every schedule, stopped in the first epoch, inside a later one and at the end of one.
STOPS = {
    ("sgd", "step"): 1, ("adam", "constant"): 3, ("adamw", "cosine"): 8, ("adam", "plateau"): 12, ("rmsprop", "one_cycle"): 13,
}  # fmt: skip


class At(Callback):
    """Does something in a step of the optimizer, before its update."""

    def __init__(self, step: int, act: Callable[..., None], *arguments: Any) -> None:
        self.step, self.act, self.arguments = step, act, arguments

    def on_before_optimizer_step(self, trainer: Any, classifier: Any, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            self.act(*(self.arguments or (classifier,)))


def train_small(run_dir: Path, *overrides: str, callbacks: tuple[Callback, ...] = ()) -> None:
    run_dir.mkdir(exist_ok=True, parents=True)
    settings = check_config(compose_config(*SMALL, *overrides, f"output_dir={run_dir}"))
    train(settings, run_dir, callbacks=callbacks, quiet=True)


def stop_at(run_dir: Path, step: int, *overrides: str, number: int = signal.SIGINT) -> int:
    """Train until a signal comes during this step; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        train_small(run_dir, *overrides, callbacks=(At(step, signal.raise_signal, number),))
    return ended.value.code


def load(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def read_numbers(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def assert_same_run(one: Path, other: Path) -> None:
    assert read_numbers(one) == read_numbers(other)
    for name in ("best", "last"):
        weights, expected = load(one, name)["state_dict"], load(other, name)["state_dict"]
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name
    results = [read_result(run) for run in (one, other)]
    for key in (
        "best",
        "epochs",
        "steps",
        "test/accuracy",
        "test/loss",
        "status",
        "fingerprint",
        "precision",
    ):
        assert results[0][key] == results[1][key], key


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("whole")
    train_small(run_dir)
    return run_dir


def test_every_optimizer_and_schedule_is_stopped_once() -> None:
    optimizers, schedulers = zip(*STOPS, strict=True)
    assert (set(optimizers), set(schedulers)) == (OPTIMIZERS, SCHEDULERS)


@pytest.mark.parametrize(("optimizer", "scheduler"), STOPS, ids=map("-".join, STOPS))
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    optimizer: str, scheduler: str, tmp_path: Path
) -> None:
    settings = [
        f"optimizer={optimizer}",
        f"scheduler={scheduler}",
        "model.dropout=0.3",
        "model.norm=batch",
        *OWN,
    ]
    if scheduler == "plateau":  # so that the lr does fall
        settings += [
            "scheduler.patience=0",
            "scheduler.monitor=val/accuracy",
            "optimizer.lr=1e-7",
            "model.norm=none",
        ]
    train_small(tmp_path / "whole", *settings)
    step = STOPS[optimizer, scheduler]
    assert stop_at(tmp_path / "stopped", step, *settings) == 130
    assert load(tmp_path / "stopped")["global_step"] == step
    assert read_result(tmp_path / "stopped")["status"] == "interrupted"
    train_small(tmp_path / "stopped", *settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    if scheduler == "plateau":
        assert len({row["lr"] for row in read_numbers(tmp_path / "whole")}) > 1


def test_a_run_that_is_stopped_again_and_again(tmp_path: Path) -> None:
    train_small(tmp_path / "whole", "trainer.accumulate_grad_batches=2")
    for step in (2, 6, 7):  # of the optimizer, two batches each
        assert (
            stop_at(tmp_path / "run", step, "trainer.accumulate_grad_batches=2", number=signal.SIGUSR1) == 138
        )
        assert load(tmp_path / "run")["global_step"] == step
    train_small(tmp_path / "run", "trainer.accumulate_grad_batches=2")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert [item["after_step"] for item in read_result(tmp_path / "run")["resumed"]] == [2, 6, 7]


def test_a_run_that_early_stopping_has_ended_stays_ended(tmp_path: Path) -> None:
    settings = ["early_stopping.patience=1", "optimizer.lr=1e-9", "early_stopping.min_delta=1"]
    train_small(tmp_path / "whole", *settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    result = read_result(tmp_path / "killed")
    (tmp_path / "killed" / "result.json").write_text(json.dumps({**result, "status": "running"}))
    train_small(tmp_path / "killed", *settings)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert len(read_numbers(tmp_path / "killed")) == 2


def test_early_stopping_below_the_least_number_of_epochs_is_not_forgotten(tmp_path: Path) -> None:
    settings = ["early_stopping.patience=1", "trainer.min_epochs=4", "trainer.max_epochs=9"]
    settings += ["early_stopping.monitor=train/loss", "optimizer.lr=0.01"]

    def scale(factor: float) -> Callable[..., None]:
        return lambda classifier: classifier.net.head[-1].weight.data.mul_(factor)

    worse = At(STEPS + 1, scale(50)), At(2 * STEPS + 1, scale(1 / 50))  # in the second epoch alone
    train_small(tmp_path / "whole", *settings, callbacks=worse)
    stop = At(3 * STEPS + 2, signal.raise_signal, signal.SIGINT)
    with pytest.raises(SystemExit):
        train_small(tmp_path / "stopped", *settings, callbacks=(*worse, stop))
    train_small(tmp_path / "stopped", *settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    rows = [float(row["train/loss"]) for row in read_numbers(tmp_path / "whole")]
    assert len(rows) == 4
    assert rows[1] > rows[0]
    assert rows[2] < rows[0]  # so that the patience alone would let it train on


def test_last_is_the_last_epoch_and_best_the_best(tmp_path: Path) -> None:
    train_small(tmp_path / "run", "optimizer=sgd", "optimizer.lr=0.5")
    best = read_result(tmp_path / "run")["best"]["epoch"]
    assert load(tmp_path / "run", "last")["global_step"] == EPOCHS * STEPS
    assert load(tmp_path / "run", "best")["global_step"] == best * STEPS


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its second epoch, with a checkpoint of the step before."""
    outputs = tmp_path_factory.mktemp("killed")
    process = CONTEXT.Process(
        target=train_small,
        args=(outputs / "runs" / "run", "checkpoint_minutes=1e-9"),
        kwargs={"callbacks": (At(STEPS + 4, signal.raise_signal, signal.SIGKILL),)},
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return outputs


@pytest.fixture
def outputs(killed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(killed, tmp_path / "outputs")


def test_a_killed_run_goes_on_with_resume_latest(outputs: Path, whole: Path, tmp_path: Path) -> None:
    run = only_run(outputs)
    assert load(run)["global_step"] == STEPS + 3
    assert (read_result(run)["status"], len(read_numbers(run))) == ("running", 1)
    events = len(list(run.glob("events.out.*")))
    done = train_command("resume=latest", f"output_dir={outputs}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert only_run(outputs) == run
    assert len(list(run.glob("events.out.*"))) == events + 1
    assert_same_run(run, whole)


def test_a_run_goes_on_in_the_precision_that_it_began_with(outputs: Path) -> None:
    run = only_run(outputs)
    earlier = read_result(run)
    other = {"32-true": "bf16-mixed", "bf16-mixed": "32-true"}[earlier["precision"]]
    (run / "result.json").write_text(json.dumps({**earlier, "precision": other}))
    train(*plan_resume("latest", [], outputs), quiet=True)
    result = read_result(run)
    assert (result["precision"], result["fingerprint"]) == (other, earlier["fingerprint"])
    assert "precision: auto" in (run / "config.yaml").read_text()


def test_a_finished_run_says_so_and_can_be_trained_for_longer(outputs: Path) -> None:
    run = only_run(outputs)
    longer = train_command(f"resume={run}", "trainer.max_epochs=4")
    assert (longer.returncode, longer.stderr) == (0, "")
    result = read_result(run)
    assert [result[name] for name in ("status", "epochs", "overrides")] == [
        "completed",
        4,
        ["trainer.max_epochs=4"],
    ]
    assert "max_epochs: 4" in (run / "config.yaml").read_text()
    with pytest.raises(ConfigError) as fewer:
        plan_resume(str(run), ["trainer.max_epochs=3"], outputs)
    assert str(fewer.value) == f"trainer.max_epochs=3: {run} already has 4 epochs; give more"
    again = train_command(f"resume={run}")
    assert again.returncode == 2
    assert again.stderr == (
        f"Error: {run} has nothing left to train after 4 epochs; "
        "to train it for longer, add trainer.max_epochs=8, for example\n"
    )


def test_what_would_make_another_experiment_is_refused_by_name(outputs: Path) -> None:
    run = only_run(outputs)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for override in ("model.hidden=[16]", "optimizer=sgd", "data.mean=0.5", "trainer.precision=16-true"):
        with pytest.raises(ConfigError) as refused:
            plan_resume(str(run), [f"resume={run}", override], outputs)
        assert str(refused.value).startswith(
            f"{override} would make the run a different experiment; start a new one without resume, or change only "
        )
    with pytest.raises(ConfigError, match=r"nowhere is not a run's folder: it has no config\.yaml$"):
        plan_resume("nowhere", [], outputs)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_in_use_is_refused(outputs: Path) -> None:
    run = only_run(outputs)
    with hold(run):
        done = train_command("resume=latest", f"output_dir={outputs}")
    message = f"Error: resume=latest: {run} is being trained by another process\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_two_signals_end_a_run_at_once(tmp_path: Path) -> None:
    def send_both(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        train_small(tmp_path / "run", callbacks=(At(8, send_both),))
    assert ended.value.code == 143
    assert load(tmp_path / "run")["global_step"] == STEPS


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    with full_disk(20_000), pytest.raises(CnnLabError) as failed:
        train_small(tmp_path / "run")
    assert str(failed.value) == (
        f"{tmp_path / 'run'}/checkpoints/best.ckpt cannot be written: File too large. When this is solved, "
        "start it again"
    )
    assert read_result(tmp_path / "run")["status"] == "failed"
    assert not list(tmp_path.rglob(".*-new*"))


def fail_after_another(error: Exception) -> None:
    try:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "settings.ini")
    except FileNotFoundError:
        raise error  # noqa: B904


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("mine"), r"the run failed: ValueError: mine\n  .*test_resume\.py"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "the run failed: ConnectionRefusedError: ",
        ),
        (
            OSError(errno.ENOSPC, "No space left"),
            r".*/run cannot be written: No space left\. When this is solved, start",
        ),
    ],
)
def test_only_what_a_disk_refuses_is_told_as_a_file_that_cannot_be_written(
    error: Exception, told: str, tmp_path: Path
) -> None:
    with pytest.raises(CnnLabError, match=f"^{told}"):
        train_small(tmp_path / "run", callbacks=(At(2, fail_after_another, error),))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # in TensorBoard's own
def test_a_directory_that_is_removed_under_a_run(tmp_path: Path) -> None:
    with pytest.raises(CnnLabError, match=r"No such file or directory. When this is solved, start it again$"):
        train_small(tmp_path / "run", callbacks=(At(8, shutil.rmtree, tmp_path / "run"),))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(CnnLabError) as failed:
        train_small(tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e20")
    assert re.fullmatch(
        r"the run has diverged: the loss is (nan|inf) at step \d with lr 1e\+20\. There is no checkpoint yet\. "
        r"Try a smaller optimizer\.lr, or trainer\.gradient_clip_val=1",
        str(failed.value),
    )
    assert read_result(tmp_path / "run")["status"] == "failed"


def test_the_last_good_checkpoint_of_a_run_that_diverges_is_kept(whole: Path, tmp_path: Path) -> None:
    def spoil(classifier: Any) -> None:
        classifier.net.blocks[0].conv.weight.grad.fill_(float("nan"))

    with pytest.raises(
        CnnLabError, match=r"the run has diverged: val/loss is nan at step 12 .* The last good checkpoint is "
    ):  # in the epoch's last step, which no training loss shows
        train_small(tmp_path / "run", callbacks=(At(2 * STEPS, spoil),))
    last = load(tmp_path / "run")
    assert last["global_step"] == STEPS
    assert all(values.isfinite().all() for values in last["state_dict"].values())
    train_small(tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)
