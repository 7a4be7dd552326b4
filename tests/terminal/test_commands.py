"""The user's own commands, run as a user runs them, and what they leave behind."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnn_lab.errors import ConfigError
from cnn_lab.runs.directory import find_run
from cnn_lab.settings.config import PROJECT
from cnn_lab.sources.idx import read_mnist
from conftest import (
    ENVIRONMENT,
    SMALL_DATA,
    TrainedRun,
    only_run,
    read_result,
    run_script,
    start_script,
    train_command,
)

TINY = [
    "data.train_size=400", "data.val_size=200", "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]",
    "trainer.limit_test_batches=1", "pictures.enabled=false",
]  # fmt: skip
RESULT_KEYS = {
    "status", "error", "label", "overrides", "seed", "dataset", "parameters", "epochs", "steps", "best",
    "test/loss", "test/accuracy", "seconds", "seconds_per_epoch", "samples_per_second", "device", "precision",
    "versions", "git_commit", "git_dirty", "started", "fingerprint", "host", "process", "updated", "ended_by",
    "steps_per_epoch", "checkpoint_step", "best_by", "images",
}  # fmt: skip
FILES = {"config.yaml", "metrics.csv", "result.json", "checkpoints", "curves.png", "train.log"}
FILES |= {"projector_config.pbtxt", "00000", ".lock"}


def read_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_screen_shows_what_a_user_needs_and_nothing_else(trained: TrainedRun) -> None:
    text = trained.process.stdout
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0] == (
        "CNN, 103,018 parameters | MNIST: 4,000 train, 500 val, 10,000 test (500 used) | "
        f"CPU with 1 thread, {trained.result['precision']}"
    )
    assert lines[1] == str(trained.path)
    assert lines[2].split() == ["layer", "operation", "output", "parameters", "multiply-adds"]
    assert lines[9].split() == ["logits", "linear", "10", "1,290", "1,280"]
    assert lines[10].split() == ["total", "103,018", "383,872"]
    assert re.fullmatch(r" +epoch +train loss +accuracy +val loss +accuracy +lr +seconds", lines[11])
    for number, line in enumerate(lines[12:15], 1):
        assert re.fullmatch(rf" +{number}/3 +[\d.]+ +[\d.]+% +[\d.]+ +[\d.]+% +0\.001 +[\d.]+", line)
    assert [line.split("  ")[0] for line in lines[15:19]] == [
        "validation accuracy", "test accuracy", "data", "time"
    ]  # fmt: skip
    assert lines[19] == f"Evaluate it again: python scripts/evaluate.py {trained.path}"
    assert lines[20] == f"See its curves:    tensorboard --logdir {trained.output_dir}"
    assert len(lines) == 21
    assert trained.process.stderr == ""


def test_the_log_has_every_line_of_the_screen_and_lightnings_once_each(trained: TrainedRun) -> None:
    log = (trained.path / "train.log").read_text()
    for line in trained.process.stdout.splitlines():
        if line.strip():
            assert len(re.findall(rf"(^|: ){re.escape(line.rstrip())} *$", log, re.MULTILINE)) == 1, line
    assert log.count("GPU available") == 1
    assert log.count("`Trainer.fit` stopped: `max_epochs=3` reached.") == 1


def test_the_run_directory_holds_what_is_promised(trained: TrainedRun) -> None:
    names = {path.name for path in trained.path.iterdir()}
    events = [name for name in names if name.startswith("events.out.tfevents.")]
    assert names - set(events) == FILES
    assert len(events) == 1
    assert {path.name for path in (trained.path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    config = yaml.safe_load((trained.path / "config.yaml").read_text())
    assert config["model"]["channels"] == [8, 16]
    assert "${" not in (trained.path / "config.yaml").read_text()
    with Image.open(trained.path / "curves.png") as picture:
        assert picture.size == (1350, 540)
        assert len(picture.convert("RGB").getcolors(maxcolors=1_000_000)) > 50


def test_the_metrics_and_the_result_agree(trained: TrainedRun) -> None:
    rows = read_rows(trained.path)
    assert list(rows[0]) == [
        "epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds"
    ]  # fmt: skip
    assert [(row["epoch"], row["step"], row["lr"]) for row in rows] == [
        ("1", "63", "0.001"), ("2", "126", "0.001"), ("3", "189", "0.001")
    ]  # fmt: skip
    result = trained.result
    assert set(result) == RESULT_KEYS
    best = max(rows, key=lambda row: float(row["val/accuracy"]))
    assert result["best"] == {"val/accuracy": float(best["val/accuracy"]), "epoch": int(best["epoch"])}
    assert (result["status"], result["error"], result["seed"]) == ("completed", None, 0)
    assert (result["epochs"], result["steps"], result["parameters"]) == (3, 189, 103_018)
    assert result["dataset"] == {"name": "MNIST", "sizes": {"train": 4_000, "val": 500, "test": 10_000}}
    assert result["label"] == "train_size-4000_val_size-500_limit_test_batches-5_max_epochs-3_c-8-16_lens-10"
    assert trained.path.name.endswith(result["label"])
    assert result["test/accuracy"] > 0.85
    assert 0 < result["seconds_per_epoch"] < result["seconds"]


def test_the_checkpoints_are_plain_data_with_the_config_inside(trained: TrainedRun) -> None:
    for name in ("best", "last"):
        checkpoint = torch.load(trained.path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["config"] == yaml.safe_load((trained.path / "config.yaml").read_text())
        assert (
            sum(value.numel() for key, value in checkpoint["state_dict"].items() if "net." in key) == 103_018
        )


def test_tensorboard_has_the_curves_the_charts_and_the_settings(trained: TrainedRun) -> None:
    events = EventAccumulator(str(trained.path), size_guidance={"scalars": 0}).Reload()
    rows = read_rows(trained.path)
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
        expected = [float(row[name]) for row in rows]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(expected)
        by_epoch = events.Scalars(f"by_epoch/{name}")
        assert [event.step for event in by_epoch] == [1, 2, 3]
        assert [event.value for event in by_epoch] == pytest.approx(expected)
    assert [event.step for event in events.Scalars("train/loss_step")] == [
        epoch * 63 + step for epoch in range(3) for step in range(10, 61, 10)
    ]
    for name in ("lr", "seconds"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx(
            [float(row[name]) for row in rows]
        )
    tags = events.Tags()
    assert "epoch" not in tags["scalars"]
    assert "hp_metric" not in tags["scalars"]
    content = next(trained.path.glob("events.out.tfevents.*")).read_bytes()
    for words in (b"custom_scalars__config__", b"^by_epoch/val/loss$", b"final/test_accuracy", b"channels"):
        assert words in content
    finals = {"val_accuracy": trained.result["best"]["val/accuracy"]}
    finals |= {f"test_{name}": trained.result[f"test/{name}"] for name in ("loss", "accuracy")}
    for name, value in finals.items():
        assert events.Scalars(f"final/{name}")[0].value == pytest.approx(value)
    (text,) = events.Tensors("config/text_summary")
    assert b"_target_: cnn_lab.model.CNN" in text.tensor_proto.string_val[0]


def test_evaluate_gives_the_numbers_that_training_printed(trained: TrainedRun) -> None:
    done = run_script("evaluate.py", str(trained.path), "--json")
    measured = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert measured["loss"] == trained.result["test/loss"]
    assert measured["accuracy"] == trained.result["test/accuracy"]
    confusion = torch.tensor(measured["confusion"])
    counts = np.bincount(read_mnist()["test"].labels[:500])
    assert confusion.sum(dim=1).tolist() == counts.tolist()
    assert confusion.diag().sum().item() / 500 == pytest.approx(measured["accuracy"])
    assert measured["class_accuracy"] == pytest.approx((confusion.diag() / counts).tolist())
    assert measured["epoch"] == trained.result["best"]["epoch"]


def test_evaluate_prints_a_table_for_a_checkpoint_and_for_validation(trained: TrainedRun) -> None:
    checkpoint = trained.path / "checkpoints" / "last.ckpt"
    done = run_script("evaluate.py", str(checkpoint), "--split", "val", cwd=trained.path)
    lines = done.stdout.splitlines()
    last = read_rows(trained.path)[-1]
    assert lines[0] == "checkpoints/last.ckpt, after epoch 3"
    assert lines[1] == "500 val images of MNIST"
    assert lines[3] == f"accuracy {float(last['val/accuracy']):.2%}   loss {float(last['val/loss']):.4f}"
    assert lines[5].split()[:4] == ["true", "accuracy", "as", "0"]
    assert [line.split()[0] for line in lines[6:16]] == [str(digit) for digit in range(10)]


def test_evaluate_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nothing", "does not exist; give a run's folder or a checkpoint"),
        (tmp_path, "is not a run's folder: it has no result.json"),
    ):
        done = run_script("evaluate.py", str(path))
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {path} {message}\n")


def test_the_same_seed_gives_the_same_run_to_the_last_bit_and_seed_0_counts(tmp_path: Path) -> None:
    arguments = [*TINY, "trainer.max_epochs=2"]
    for name, sweep in (("alone", ["seed=0"]), ("sweep", ["-m", "seed=1,0"])):
        done = train_command(*sweep, *arguments, f"output_dir={tmp_path / name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    other, again = sorted(path.parent for path in (tmp_path / "sweep").rglob("result.json"))
    runs = [only_run(tmp_path / "alone"), again, other]
    metrics = [[{**row, "seconds": ""} for row in read_rows(run)] for run in runs]
    weights = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert metrics[0] == metrics[1] != metrics[2]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["net.head.1.weight"], weights[2]["net.head.1.weight"])


def test_runs_that_start_together_get_directories_of_their_own(tmp_path: Path) -> None:
    arguments = [*TINY, "trainer=debug", "label=twin", f"output_dir={tmp_path}"]
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(train_command, *arguments) for _ in range(2)]
    assert [done.result().returncode for done in waiting] == [0, 0]
    assert [read_result(run)["status"] for run in (tmp_path / "runs").iterdir()] == ["completed"] * 2


def test_in_a_terminal_there_is_a_bar_with_loss_and_accuracy(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, **ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, str(PROJECT / "scripts" / "train.py"), *TINY, "trainer.max_epochs=1"]
    process = subprocess.Popen(
        [*command, f"output_dir={tmp_path}"], stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    while chunk := _read(leader):
        shown += chunk
    assert process.wait(timeout=60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"epoch 1/1 .*\d/7 loss \d\.\d{4}  accuracy \d+\.\d\d%", text)
    assert "epoch 1/1" not in (only_run(tmp_path) / "train.log").read_text()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other side is closed
        return b""


def test_after_ctrl_c_a_run_has_all_its_finished_epochs(tmp_path: Path) -> None:
    arguments = [*TINY, "trainer.max_epochs=100000", f"output_dir={tmp_path}"]
    with start_script("train.py", *arguments, stdout=subprocess.PIPE) as process:
        next(line for line in process.stdout if line.strip().startswith("3/"))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    run = only_run(tmp_path)
    result, rows = read_result(run), read_rows(run)
    assert (result["status"], result["signal"]) == ("interrupted", "SIGINT")
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 3
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] >= int(rows[-1]["step"])
    assert f"Interrupted. Continue with: python scripts/train.py resume={run}" in rest
    assert (run / "curves.png").is_file()


def test_early_stopping_ends_a_run_that_gets_no_better_and_says_so(tmp_path: Path) -> None:
    done = train_command(
        *TINY, "optimizer.lr=1e-12", "early_stopping.patience=2", "early_stopping.min_delta=0.01",
        "trainer.max_epochs=50", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = read_result(only_run(tmp_path))
    assert (result["epochs"], result["ended_by"]) == (3, "early_stopping")
    assert re.search(
        r"^Early stopping: val/loss did not improve for 2 epochs; the best was 2\.\d{4}$", done.stdout, re.M
    )


def test_a_network_that_learns_nothing_is_pointed_out(tmp_path: Path) -> None:
    done = train_command(
        *TINY, "optimizer=sgd", "optimizer.lr=20", "trainer.max_epochs=1", f"output_dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    message = (
        r"^The network predicts class \d for all 200 validation images; if this goes on, try a smaller optim"
    )
    assert re.search(message, done.stdout, re.M)


def test_debug_is_one_tiny_run(tmp_path: Path) -> None:
    done = train_command("trainer=debug", "trainer.accelerator=cpu", f"output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = read_result(only_run(tmp_path))
    assert (result["epochs"], result["steps"], result["status"]) == (1, 2, "completed")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = train_command("trainer=debug", f"output_dir={tmp_path}")
    assert done.returncode == 1
    assert "Permission denied; choose another place with output_dir=DIR" in done.stderr


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = train_command("trainer=debug", f"output_dir={tmp_path / 'file'}", "label=x")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"Error: the directory {tmp_path}/file/runs/\S+-x cannot be made: Not a directory; "
        r"choose another place with output_dir=DIR\n",
        done.stderr,
    )


def test_the_article_measures_the_test_images_after_each_epoch(tmp_path: Path) -> None:
    done = train_command(
        "experiment=article", "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=20",
        "trainer.limit_val_batches=5", "trainer.limit_test_batches=5", "pictures.enabled=false", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    rows, result = read_rows(run), read_result(run)
    assert [row["val/loss"] for row in rows] == ["", ""]
    assert float(rows[-1]["test/accuracy"]) == result["test/accuracy"]
    assert float(rows[-1]["test/loss"]) == result["test/loss"]
    assert result["best"] is None
    assert result["dataset"] == {"name": "MNIST", "sizes": {"train": 60_000, "val": 0, "test": 10_000}}
    done = run_script("evaluate.py", str(run), "--split", "val")
    assert done.stderr == "Error: there are no val images: this run was trained with data.val_size=0\n"


def test_the_default_network_reaches_95_percent_in_an_epoch_of_10_000_images(tmp_path: Path) -> None:
    done = train_command(
        "data.train_size=10000", "data.val_size=1000", "trainer.accelerator=cpu", "trainer.max_epochs=1",
        "pictures.enabled=false", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_result(only_run(tmp_path))["test/accuracy"] > 0.95  # 95.8 to 96.0 with seeds 0 to 2


def test_two_processes_train_together_into_one_directory_also_in_a_job_of_slurm(tmp_path: Path) -> None:
    small = [item for item in TINY if "limit_test" not in item]
    in_a_job = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    done = train_command(
        *small,
        "trainer.devices=2",
        "trainer.max_epochs=1",
        f"output_dir={tmp_path}",
        **in_a_job,
        LOCAL_RANK="0",
    )
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert [row["step"] for row in read_rows(run)] == ["4"]
    measured = json.loads(run_script("evaluate.py", str(run), "--json").stdout)
    assert measured["accuracy"] == pytest.approx(read_result(run)["test/accuracy"], abs=0.005)
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


@pytest.mark.slow
def test_two_processes_that_were_killed_inside_an_epoch_measure_all_of_it(tmp_path: Path) -> None:
    typed = [
        *SMALL_DATA,
        "model.channels=[2,4]",
        "model.dropout=0.3",
        "pictures.enabled=false",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.max_epochs=3",
        "checkpoint_minutes=1e-9",
    ]
    whole = train_command(*typed, f"output_dir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    process = start_script("train.py", *typed, f"output_dir={tmp_path / 'killed'}", start_new_session=True)
    while not any(
        read_result(path.parent).get("checkpoint_step") for path in tmp_path.glob("killed/runs/*/result.json")
    ):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed, never_stopped = only_run(tmp_path / "killed"), only_run(tmp_path / "whole")
    done = train_command(f"resume={killed}")
    assert done.returncode == 0, done.stderr
    rows, expected = (
        [{key: row[key] for key in row if key != "seconds"} for row in read_rows(run)]
        for run in (killed, never_stopped)
    )
    assert rows == expected
    assert read_result(killed)["resumed"][0]["after_step"] % int(rows[0]["step"])  # inside an epoch


def test_a_label_names_the_directory_and_never_leads_out_of_it(tmp_path: Path) -> None:
    done = train_command("trainer=debug", "label=../../my run", f"output_dir={tmp_path / 'o'}")
    assert done.returncode == 0, done.stderr
    assert only_run(tmp_path / "o").name.endswith("-..-..-my-run")
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_a_traceback_is_shown_when_asked_for() -> None:
    done = train_command("model.dropout=2", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("Error: model.dropout=2 is out of range: it must be at least 0 and below 1\n")


def test_the_run_that_is_meant_is_the_latest_or_the_best_of_a_sweep(
    trained: TrainedRun, tmp_path: Path
) -> None:
    def add(place: str, started: str, best: float) -> Path:
        run = shutil.copytree(trained.path, tmp_path / place)
        result = {**trained.result, "started": started, "best": {"val/accuracy": best, "epoch": 1}}
        (run / "result.json").write_text(json.dumps(result))
        return run

    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match=r"^.* contains no run; train one first: python scripts/train\.py$"):
        find_run(tmp_path)
    late = add("runs/b", "2026-01-02T00:00:00+00:00", 0.5)
    add("runs/a", "2026-01-02T01:00:00+02:00", 0.9)  # an hour earlier
    assert find_run(tmp_path) == (late, late / "checkpoints" / "best.ckpt")
    better = add("sweeps/s/0-x", "2026-01-03T00:00:00+00:00", 0.9)
    add("sweeps/s/1-x", "2026-01-03T00:01:00+00:00", 0.8)
    (tmp_path / "sweeps" / "s" / "sweep.yaml").write_text("{}")
    assert find_run(tmp_path)[0] == find_run(tmp_path / "sweeps" / "s")[0] == better
