"""Runs that are stopped, killed or out of room, and go on."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from cnn_lab.errors import CnnLabError
from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.training import train
from conftest import FAST, compose_config, only_run, read_result, start_script, train_command

STEPS, EPOCHS = 6, 3
SMALL = [
    "data=sample", "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]", "pictures.enabled=false",
    f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=2", "trainer.limit_test_batches=1",
    f"trainer.max_epochs={EPOCHS}", "trainer.log_every_n_steps=1",
]  # fmt: skip
OPTIMIZERS = sorted(path.stem for path in (PROJECT / "conf" / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(path.stem for path in (PROJECT / "conf" / "scheduler").glob("*.yaml"))
# Every optimizer and every schedule, stopped inside an epoch, at its end, and in the first one.
STOPS = {
    ("adam", "plateau"): 12, ("adam", "constant"): 3, ("adamw", "cosine"): 8, ("adamw", "step"): 6,
    ("rmsprop", "one_cycle"): 13, ("rmsprop", "plateau"): 10, ("sgd", "step"): 15, ("sgd", "one_cycle"): 1,
}  # fmt: skip


class SignalAt(Callback):
    """Sends this process a signal during a step."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def train_small(run_dir: Path, *overrides: str, callbacks: tuple[Callback, ...] = ()) -> None:
    run_dir.mkdir(exist_ok=True)
    settings = check_config(compose_config(*SMALL, *overrides, f"output_dir={run_dir}"))
    train(settings, run_dir, callbacks=callbacks, quiet=True)


def stop_at(run_dir: Path, step: int, *overrides: str, number: int = signal.SIGINT) -> int:
    """Train until a signal comes during this step; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        train_small(run_dir, *overrides, callbacks=(SignalAt(step, number),))
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
    for key in ("best", "epochs", "steps", "test/accuracy", "test/loss", "status"):
        assert results[0][key] == results[1][key], key


def test_every_optimizer_and_schedule_is_stopped_once() -> None:
    assert {name for name, _ in STOPS} == set(OPTIMIZERS)
    assert {name for _, name in STOPS} == set(SCHEDULERS)


@pytest.mark.parametrize(("optimizer", "scheduler"), STOPS, ids=map("-".join, STOPS))
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    optimizer: str, scheduler: str, tmp_path: Path
) -> None:
    settings = [f"optimizer={optimizer}", f"scheduler={scheduler}", "model.dropout=0.3", "model.norm=batch"]
    if scheduler == "plateau":
        settings += [
            "scheduler.patience=0",
            "scheduler.monitor=train/accuracy",
            "optimizer.lr=1e-7",
        ]  # so that the lr does fall
    train_small(tmp_path / "whole", *settings)
    step = STOPS[optimizer, scheduler]
    assert stop_at(tmp_path / "stopped", step, *settings) == 130
    assert load(tmp_path / "stopped")["global_step"] == step
    assert read_result(tmp_path / "stopped")["status"] == "interrupted"
    train_small(tmp_path / "stopped", *settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    if scheduler == "plateau":
        rates = [float(row["lr"]) for row in read_numbers(tmp_path / "whole")]
        assert rates != [rates[0]] * EPOCHS


def test_a_run_that_is_stopped_again_and_again(tmp_path: Path) -> None:
    train_small(tmp_path / "whole", "trainer.accumulate_grad_batches=2")
    for step in (1, 2, 5, 6, 7):  # of the optimizer, two batches each
        stop_at(tmp_path / "stopped", step, "trainer.accumulate_grad_batches=2", number=signal.SIGTERM)
        assert load(tmp_path / "stopped")["global_step"] == step
    train_small(tmp_path / "stopped", "trainer.accumulate_grad_batches=2")
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    resumed = [item["after_step"] for item in read_result(tmp_path / "stopped")["resumed"]]
    assert resumed == [1, 2, 5, 6, 7]


def test_a_run_that_early_stopping_has_ended_stays_ended(tmp_path: Path) -> None:
    settings = ["early_stopping.patience=1", "optimizer.lr=1e-9", "early_stopping.min_delta=1"]
    train_small(tmp_path / "whole", *settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    result = read_result(tmp_path / "killed")
    (tmp_path / "killed" / "result.json").write_text(json.dumps({**result, "status": "running"}))
    train_small(tmp_path / "killed", *settings)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert len(read_numbers(tmp_path / "killed")) == 2


def test_last_is_the_last_epoch_and_best_the_best(tmp_path: Path) -> None:
    train_small(tmp_path / "run", "optimizer=sgd", "optimizer.lr=0.5")
    best = read_result(tmp_path / "run")["best"]["epoch"]
    assert load(tmp_path / "run", "last")["global_step"] == EPOCHS * STEPS
    assert load(tmp_path / "run", "best")["global_step"] == best * STEPS


def test_a_checkpoint_inside_an_epoch_by_time(tmp_path: Path) -> None:
    class Die(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                raise RuntimeError("gone")

    with pytest.raises(CnnLabError, match="RuntimeError: gone"):
        train_small(tmp_path / "run", "checkpoint_minutes=1e-9", callbacks=(Die(),))
    assert load(tmp_path / "run")["global_step"] == 3  # callbacks of others come first
    train_small(tmp_path / "run")
    train_small(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its second epoch."""
    outputs = tmp_path_factory.mktemp("killed")
    arguments = [
        *SMALL,
        "trainer.limit_train_batches=60",
        "model.channels=[8,16]",
        "checkpoint_minutes=0.0005",
    ]
    process = start_script("train.py", *arguments, f"output_dir={outputs}", stdout=subprocess.PIPE)
    assert process.stdout
    for line in process.stdout:
        if line.strip().startswith("1/3"):
            break
    time.sleep(0.1)
    process.kill()
    process.communicate()
    return outputs


def copy_of(outputs: Path, folder: Path) -> Path:
    shutil.copytree(outputs, folder / "outputs")
    return only_run(folder / "outputs")


def test_a_killed_run_goes_on_with_resume_latest(killed: Path, tmp_path: Path) -> None:
    run = copy_of(killed, tmp_path)
    assert 60 <= load(run)["global_step"] < 180
    events = len(list(run.glob("events.out.*")))
    done = train_command("resume=latest", f"output_dir={tmp_path / 'outputs'}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert only_run(tmp_path / "outputs") == run
    assert len(list(run.glob("events.out.*"))) == events + 1
    arguments = [
        *SMALL,
        "trainer.limit_train_batches=60",
        "model.channels=[8,16]",
        f"output_dir={tmp_path / 'whole'}",
    ]
    assert train_command(*arguments).returncode == 0
    assert_same_run(run, only_run(tmp_path / "whole"))
    assert (run / "train.log").read_text().count("train loss") == 2


def test_a_finished_run_says_so_and_can_be_trained_for_longer(killed: Path, tmp_path: Path) -> None:
    run = copy_of(killed, tmp_path)
    longer = train_command(f"resume={run}", "trainer.max_epochs=4")
    assert (longer.returncode, longer.stderr) == (0, "")
    result = read_result(run)
    assert (result["status"], result["epochs"], result["overrides"][-1]) == (
        "completed",
        4,
        "trainer.max_epochs=4",
    )
    assert "max_epochs: 4" in (run / "config.yaml").read_text()
    fewer = train_command(f"resume={run}", "trainer.max_epochs=3")
    message = f"Error: trainer.max_epochs=3: {run} has 4 epochs already; give more\n"
    assert (fewer.returncode, fewer.stderr) == (2, message)
    again = train_command(f"resume={run}")
    assert again.returncode == 2
    assert again.stderr == (
        f"Error: {run} is completed (4 epochs): there is nothing to go on with; "
        "to train it for longer, add trainer.max_epochs=8, say\n"
    )


REFUSED = {
    "model.hidden=[16]": "model.hidden=[16] would make another experiment of the run; start a new one without resume",
    "optimizer=sgd": "optimizer=sgd would make another experiment of the run",
    "data.mean=0.5": "would make another experiment of the run",
    "resume=nowhere": "nowhere is not a run directory: it has no config.yaml",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_would_make_another_experiment_is_refused_by_name(
    override: str, killed: Path, tmp_path: Path
) -> None:
    run = copy_of(killed, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    resume = [] if override.startswith("resume=") else [f"resume={run}"]
    done = train_command(*resume, override)
    assert done.returncode == 2
    assert REFUSED[override] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    process = start_script(
        "train.py", *FAST, "trainer.max_epochs=5000", f"output_dir={tmp_path}", stdout=subprocess.PIPE
    )
    assert process.stdout
    next(line for line in process.stdout if line.strip().startswith("1/"))
    done = train_command("resume=latest", f"output_dir={tmp_path}")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert done.returncode == 2
    assert "is being trained by another process" in done.stderr
    assert process.returncode == 143
    run = only_run(tmp_path)
    assert f"Interrupted. Go on with it: python scripts/train.py resume={run}" in out.replace(
        f"{PROJECT}/", ""
    )
    result = read_result(run)
    assert (result["status"], result["signal"]) == ("interrupted", "SIGTERM")
    assert load(run)["global_step"] >= result["steps"]


def test_two_signals_end_a_run_at_once(tmp_path: Path) -> None:
    class Twice(SignalAt):
        def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step + 1 == self.step:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        train_small(tmp_path / "run", callbacks=(Twice(8),))
    assert ended.value.code == 143
    assert load(tmp_path / "run")["global_step"] == STEPS


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    program = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit := int(sys.argv.pop(1)), limit))\n"
        f"runpy.run_path({str(PROJECT / 'scripts' / 'train.py')!r}, run_name='__main__')"
    )
    arguments = [*SMALL, "model.channels=[8,16]", f"output_dir={tmp_path}"]

    def run_limited(size: int, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(size), *more]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    done = run_limited(20_000, *arguments)
    run = only_run(tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: {run} cannot be written: File too large. When that is mended, start it again\n"
    )
    assert read_result(run)["status"] == "failed"
    assert not list(run.rglob("*.new"))


def test_a_directory_that_is_removed_under_a_run(tmp_path: Path) -> None:
    arguments = [*SMALL, "trainer.max_epochs=2000", f"output_dir={tmp_path}"]
    process = start_script("train.py", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    next(line for line in process.stdout if line.strip().startswith("1/"))
    run = only_run(tmp_path)
    while run.exists():  # a file may appear while the others go
        shutil.rmtree(run, ignore_errors=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1
    assert "No such file or directory. When that is mended, start it again" in err


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(CnnLabError) as failed:
        train_small(tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e9")
    assert str(failed.value) == (
        "the run has diverged: the loss is nan at step 3 with lr 1e+09. There is no checkpoint yet. "
        "Try a smaller optimizer.lr, or trainer.gradient_clip_val=1"
    )
    assert read_result(tmp_path / "run")["status"] == "failed"


def test_the_last_good_checkpoint_of_a_run_that_diverges_is_kept(tmp_path: Path) -> None:
    class Break(Callback):
        def on_before_optimizer_step(self, trainer: Any, classifier: Any, *_: Any) -> None:
            if trainer.global_step + 1 == 2 * STEPS:  # the epoch's last step: no training loss shows it
                classifier.net.blocks[0].conv.weight.grad.fill_(float("nan"))

    with pytest.raises(
        CnnLabError, match=r"the run has diverged: val/loss is nan at step 12 .* The last good checkpoint is "
    ):
        train_small(tmp_path / "run", callbacks=(Break(),))
    last = load(tmp_path / "run")
    assert last["global_step"] == STEPS
    assert all(values.isfinite().all() for values in last["state_dict"].values())
    train_small(tmp_path / "run")
    train_small(tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_network_that_learns_nothing_is_pointed_out(tmp_path: Path) -> None:
    done = train_command(
        *SMALL, "optimizer=sgd", "optimizer.lr=20", "trainer.max_epochs=1", f"output_dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^The network calls all 200 validation images \d: it learns nothing\. Try a smaller",
        done.stdout,
        re.M,
    )
