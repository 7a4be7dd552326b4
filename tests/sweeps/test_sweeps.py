"""Sweeps as a user runs them: their runs, failures, interruptions, and what they refuse."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_lab.settings.config import PROJECT
from conftest import ENVIRONMENT, FAST, WAITING, only_run, read_result, start_script, train_command
from forked import run_forked

TINY = [
    "data.train_size=640", "data.val_size=200", "trainer.limit_test_batches=2", "trainer.accelerator=cpu",
    "model.hidden=[8]", "pictures.enabled=false",
]  # fmt: skip


def only_sweep(output_dir: Path) -> Path:
    (sweep,) = (output_dir / "sweeps").iterdir()
    return sweep


def read_runs(sweep: Path) -> dict[str, dict[str, Any]]:
    """result.json of each run by the name of its directory, in the order of their numbers."""
    paths = sorted(sweep.glob("*/result.json"), key=lambda path: int(path.parent.name.partition("-")[0]))
    return {path.parent.name: read_result(path.parent) for path in paths}


def read_numbers(run: Path) -> list[dict[str, str]]:
    """metrics.csv without the seconds."""
    with (run / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)
        ]


def run_again(output: str) -> dict[str, Any]:
    """Run the command that a report ends with; returns the result of the one run that it trains."""
    command = re.search(r"^Train it again: python scripts/train.py (.*)$", output, re.MULTILINE)
    assert command
    arguments = shlex.split(command[1])
    done = train_command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    (output_dir,) = (item.partition("=")[2] for item in arguments if item.startswith("output_dir="))
    return read_result(only_run(Path(output_dir)))


def run_advice(output: str, words: str, **changes: str) -> Any:
    """Run the command that a report advises in the line with these words, with other values of some keys."""
    command = re.search(rf"^.*{words}.*: python scripts/train.py (.*)$", output, re.MULTILINE)
    assert command
    typed = [item for item in shlex.split(command[1]) if item.partition("=")[0] not in changes]
    done = train_command(*typed, *(f"{key}={value}" for key, value in changes.items()))
    assert (done.returncode, done.stderr) == (0, "")
    return done


def start_sweep(
    ready: Callable[[dict[str, dict[str, Any]]], bool], output_dir: Path, *arguments: str
) -> subprocess.Popen[str]:
    """Start a sweep in a process group of its own; returns it once its runs are `ready`."""
    process = start_script(
        "train.py", *arguments, f"output_dir={output_dir}",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    while not any(ready(read_runs(sweep)) for sweep in (output_dir / "sweeps").glob("*")):
        if process.poll() is not None:
            pytest.fail(f"it has ended before: {process.communicate()[0]}")
        time.sleep(0.02)
    return process


def end_sweep(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Send the process group of a sweep a signal; returns its exit code and what it printed."""
    os.killpg(process.pid, number)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, output


def second_has_an_epoch(runs: dict[str, dict[str, Any]]) -> bool:
    return len(runs) > 1 and list(runs.values())[1].get("epochs", 0) >= 1


SWEPT = [*TINY, "model.channels=[2],[2,4],[2,2,2,2,2]", "seed=0,1", "trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A sweep of two settings with two seeds, and one that makes no network."""
    output_dir = tmp_path_factory.mktemp("outputs")
    done = train_command("-m", *SWEPT, f"output_dir={output_dir}")
    return done, only_sweep(output_dir)


def test_a_sweep_prints_a_line_a_run_and_a_table_with_means_and_spreads(swept: tuple[Any, Path]) -> None:
    done, sweep = swept
    runs = read_runs(sweep)
    lines = done.stdout.splitlines()
    assert lines[0] == f"6 runs in {sweep}"
    reason = "model: block 5: a 2x2 pool does not fit its 1x1 input; use fewer blocks or model.pool=none"
    refused = [name for name in runs if "2-2-2-2-2" in name]
    assert lines[1] == f"{refused[0]} and 1 more are rejected: {reason}"
    assert [runs[name]["error"] for name in refused] == [reason] * 2
    for number, (name, line) in enumerate(zip(list(runs)[:4], lines[2:6], strict=True), 3):
        pattern = rf" +{number}/6  {name} +completed +val +[\d.]+%  test +[\d.]+% +[\d.]+ s"
        assert re.fullmatch(pattern, line), line
    table = [line.split() for line in lines[7:11]]
    against = "gap to the best, points"
    assert (
        " ".join(table[0]) == f"channels runs val accuracy {against} test accuracy parameters seconds status"
    )
    means = []
    for channels in ("[2]", "[2,4]"):
        label = channels.strip("[]").replace(",", "-")
        chosen = [runs[f"{number}-channels-{label}_seed-{number % 2}"] for number in range(4)
                  if f"{number}-channels-{label}_seed-{number % 2}" in runs]  # fmt: skip
        values = torch.tensor([run["best"]["val/accuracy"] for run in chosen], dtype=torch.float64) * 100
        (row,) = [row for row in table if row[0] == channels]
        assert row[1:6] == ["2", f"{values.mean():.2f}", "±", f"{values.std():.2f}", "%"]
        assert row[-3].replace(",", "") == str(chosen[0]["parameters"])
        means.append((values.mean().item(), channels))
    assert [row[0] for row in table[1:]] == [max(means)[1], min(means)[1], "[2,2,2,2,2]"]
    assert table[3][-1] == "failed"
    assert (done.returncode, done.stderr) == (1, "Error: 2 of 6 runs failed, 2 of them rejected\n")
    assert done.stdout.count(reason) == 1
    assert (sweep / "report.md").read_text().count(reason) == 1
    assert "Continue with" not in done.stdout


def test_a_sweep_leaves_a_report_and_a_directory_for_each_run(swept: tuple[Any, Path]) -> None:
    _, sweep = swept
    runs = read_runs(sweep)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-channels_seed", sweep.name)
    assert list(runs)[:4] == [
        "0-channels-2_seed-0", "1-channels-2_seed-1", "2-channels-2-4_seed-0", "3-channels-2-4_seed-1"
    ]  # fmt: skip
    assert {path.name for path in sweep.iterdir()} - set(runs) == {
        ".lock", "curves.png", "report.csv", "report.md", "report.png", "sweep.yaml"
    }  # fmt: skip
    with (sweep / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == list(runs)
    assert [row["model.channels"] for row in rows[::2]] == ["[2]", "[2,4]", "[2,2,2,2,2]"]
    for row, result in zip(rows[:4], list(runs.values())[:4], strict=True):
        assert (row["status"], row["seed"]) == ("completed", str(result["seed"]))
        assert float(row["test/accuracy"]) == result["test/accuracy"]
        assert "train.log" in {path.name for path in (sweep / row["run"]).iterdir()}


def test_a_run_that_fails_says_why_and_a_sweep_goes_on(tmp_path: Path) -> None:
    arguments = ["optimizer.lr=1e9,0.01", "optimizer=sgd", "trainer.max_epochs=1", *FAST]
    done = train_command("-m", *arguments, f"output_dir={tmp_path}")
    sweep = only_sweep(tmp_path)
    failed, completed = (sweep / name for name in read_runs(sweep))
    reason = "the run has diverged: the loss is nan at step 3 with lr 1e+09."
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: 1 of 2 runs failed:\n  {failed}: {reason}")
    assert re.search(rf"^ +1/2  {failed.name} +failed +{re.escape(reason)}", done.stdout, re.MULTILINE)
    assert f"sweep.resume={sweep}" in done.stdout
    result = read_result(failed)
    assert (result["status"], result["error"].startswith(reason)) == ("failed", True)
    assert result["traceback"].startswith("Traceback (most recent call last)")
    assert "Traceback (most recent call last)" in (failed / "train.log").read_text()
    assert read_result(completed)["status"] == "completed"
    done = train_command("-m", *arguments, f"output_dir={tmp_path}", "sweep.resume=latest")
    assert "2 runs in" in done.stdout
    assert "; 1 is already complete" in done.stdout
    assert [run["status"] for run in read_runs(sweep).values()] == ["failed", "completed", "failed"]
    assert done.stderr.startswith("Error: 1 of 2 runs failed:\n")


def test_what_all_runs_fail_for_is_told_once(tmp_path: Path) -> None:
    done = train_command(
        "-m", *TINY, "seed=0,1,2", "trainer.limit_train_batches=1e-4", f"output_dir={tmp_path}"
    )
    reason = read_runs(only_sweep(tmp_path))["0-seed-0"]["error"]
    assert (done.returncode, done.stderr) == (
        1, f"Error: 3 of 3 runs failed:\n  {reason} (all 3 runs)\n"
    )  # fmt: skip
    assert re.findall(r"^ +\d/3  (\S+) +failed +(.*)$", done.stdout, re.MULTILINE) == [
        ("0-seed-0", f"{reason[:100]}..."), ("1-seed-1", "as 0-seed-0 did"), ("2-seed-2", "as 0-seed-0 did"),
    ]  # fmt: skip


def test_an_experiment_of_several_runs_that_does_not_say_so_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n"
    )
    done = train_command("--config-dir", str(tmp_path), "experiment=mine", f"output_dir={tmp_path / 'out'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: hydra.sweeper.params has values for several runs: type -m to train")
    assert not (tmp_path / "out").exists()


def test_fail_fast_starts_no_other_run(tmp_path: Path) -> None:
    done = train_command(
        "-m", "optimizer.lr=1e9,0.01", "optimizer=sgd", "trainer.max_epochs=1", *FAST, "sweep.fail_fast=true",
        f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 1 of 2 runs failed, 1 did not finish:\n")
    assert [path.name for path in only_sweep(tmp_path).iterdir() if path.is_dir()] == ["0-lr-1000000000.0"]


@pytest.mark.slow
def test_failed_runs_free_their_memory(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from cnn_lab.settings.config import PROJECT
from cnn_lab.sweeps.job import run_job
for number in range(8):
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", ["data.train_size=640", "model.hidden=[4000]", "trainer.accelerator=cpu",
            "optimizer.lr=1e30", "trainer.limit_train_batches=4",
            "trainer.max_epochs=1"], return_hydra_config=True)
    folder = Path(sys.argv[1], f"{number}-x")
    folder.mkdir()
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    run_job(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
    if number in (1, 7):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, **ENVIRONMENT},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    one_network = 4000 * 3136 * 4 // 10**6
    assert late - early < 3 * one_network  # megabytes; held, the six networks and their moments are more
    assert {read_result(path.parent)["status"] for path in tmp_path.glob("*/result.json")} == {"failed"}


@pytest.mark.slow
def test_the_memory_of_a_sweep_stays_flat() -> None:
    """Of 100 jobs; where Hydra's config of each job was kept, it grew by 8 %, and 5 % is too much."""
    command = [sys.executable, str(PROJECT / "benchmarks" / "robustness.py"), "sweep", "--count", "100"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sweep_that_was_moved_repeats_nothing_that_is_done_or_refused(
    swept: tuple[Any, Path], tmp_path: Path
) -> None:
    sweep = only_sweep(shutil.copytree(swept[1].parents[1], tmp_path / "moved"))
    before = {name: run["started"] for name, run in read_runs(sweep).items()}
    done = train_command("-m", *SWEPT, f"output_dir={sweep.parents[1]}", "sweep.resume=latest")
    assert {name: run["started"] for name, run in read_runs(sweep).items()} == before
    assert done.stdout.startswith(f"6 runs in {sweep}; 4 are already complete\n")
    assert (done.returncode, done.stderr) == (1, "Error: 2 of 6 runs failed, 2 of them rejected\n")


def test_the_same_settings_are_trained_once_and_the_best_can_be_trained_again(tmp_path: Path) -> None:
    """Of an experiment that by itself asks for a sweep."""
    typed = [*TINY, "model.channels=[2]", "model.dropout=0,0.5", "seed=0,0", f"output_dir={tmp_path}"]
    done = train_command("experiment=dropout", *typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("4 combinations make 2 different runs\n2 runs in ")
    runs = read_runs(only_sweep(tmp_path))
    assert [run["epochs"] for run in runs.values()] == [4, 4]
    best = max(runs, key=lambda name: runs[name]["best"]["val/accuracy"])
    assert f"Best run: {only_sweep(tmp_path) / best}\n" in done.stdout
    assert run_again(done.stdout)["fingerprint"] == runs[best]["fingerprint"]
    more = run_advice(done.stdout, "One run per setting")
    assert more.stdout.startswith(f"10 runs in {only_sweep(tmp_path)}; 2 are already complete\n")
    assert "Best on validation images, over 5 seeds: dropout 0" in more.stdout


def test_a_killed_sweep_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    arguments = ["-m", *TINY, "model.channels=[4]"]
    process = start_sweep(second_has_an_epoch, tmp_path, *arguments, "trainer.max_epochs=1,10")
    arguments.append(f"output_dir={tmp_path}")
    code, _ = end_sweep(process, signal.SIGKILL)
    sweep = only_sweep(tmp_path)
    assert code == -signal.SIGKILL
    assert [run["status"] for run in read_runs(sweep).values()] == ["completed", "running"]
    first = (sweep / "0-max_epochs-1" / "result.json").read_bytes()
    done = train_command(*arguments, "trainer.max_epochs=1,10,2", "sweep.resume=latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"3 runs in {sweep}; 1 is already complete" in done.stdout
    runs = read_runs(sweep)
    assert {name: (run["status"], run["epochs"]) for name, run in runs.items()} == {
        f"{number}-max_epochs-{epochs}": ("completed", epochs) for number, epochs in enumerate((1, 10, 2))
    }
    assert (sweep / "0-max_epochs-1" / "result.json").read_bytes() == first
    alone = train_command(*arguments[1:], "trainer.max_epochs=10")
    assert alone.returncode == 0, alone.stderr
    killed = sweep / "1-max_epochs-10"
    assert read_numbers(killed) == read_numbers(only_run(tmp_path))
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (killed, only_run(tmp_path))
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_an_interrupted_sweep_says_what_is_done_and_how_to_go_on(tmp_path: Path) -> None:
    """While it runs, another process cannot go on with it."""
    arguments = ["-m", *TINY, "model.channels=[4]", "seed=0,1", "trainer.max_epochs=1,1000"]
    process = start_sweep(second_has_an_epoch, tmp_path, *arguments)
    second = train_command(*arguments, f"output_dir={tmp_path}", "sweep.resume=latest")
    code, output = end_sweep(process, signal.SIGINT)
    sweep = only_sweep(tmp_path)
    in_use = f"Error: {sweep} is in use by another process: wait for it, or stop it first\n"
    assert (second.returncode, second.stderr) == (1, in_use)
    assert code == 130
    assert "Interrupted with 1 of 4 runs complete." in output
    command = re.search(r"Continue with: python (\S+) (.*)", output)
    assert command
    assert shlex.split(command[2]) == [*arguments, f"output_dir={tmp_path}", f"sweep.resume={sweep}"]
    assert [run["status"] for run in read_runs(sweep).values()] == ["completed", "interrupted"]
    report = (sweep / "report.md").read_text()
    assert (report.count("| completed |"), report.count("| interrupted |")) == (1, 1)
    assert "Traceback" not in output


def test_a_run_that_another_process_trains_keeps_its_record(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        """
from pathlib import Path
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from cnn_lab.runs.lock import hold
from cnn_lab.settings.config import PROJECT
from cnn_lab.sweeps.job import run_job
run_dir = Path(__file__).with_name("0-x")
with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
    config = compose("train", ["trainer.accelerator=cpu"], return_hydra_config=True)
with open_dict(config):
    config.hydra.runtime.output_dir = str(run_dir)
HydraConfig.instance().set_config(config)
with hold(run_dir):
    run_job(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
"""
    )
    (tmp_path / "0-x").mkdir()
    (tmp_path / "0-x" / "result.json").write_text('{"status": "running", "epochs": 3}')
    done = run_forked(script, [], tmp_path, {**os.environ, **ENVIRONMENT})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0-x" / "result.json").read_text() == '{"status": "running", "epochs": 3}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*SWEPT, "optimizer.lr=0.1", "sweep.resume={sweep}"],
            (
                "{sweep} was run with optimizer.lr=0.001, now it is 0.1: type the same again, or leave sweep.resume "
                "out to start a new sweep"
            ),
        ),
        (
            [*SWEPT, "hydra/sweeper=optuna", "sweep.resume={sweep}"],
            "{sweep} is a grid, not a search: it cannot be continued as one",
        ),
        (
            ["seed=0,1", "sweep.repeat={sweep}"],
            "sweep.repeat={sweep} is a sweep over model.channels: type what was typed for it, too",
        ),
        (
            [*SWEPT, "sweep.repeat=latest", "sweep.resume={sweep}"],
            "sweep.repeat=latest is another sweep now: type the one that was repeated",
        ),
        (
            [*SWEPT, "label=a,b"],
            "label has several values, and a sweep takes one for all its runs: type one",
        ),
        (
            [*SWEPT, "sweep.resume={sweep}/0-x"],
            "{sweep}/0-x is not a sweep's folder: it has no sweep.yaml",
        ),
    ],
)
def test_another_sweep_is_not_resumed(swept: tuple[Any, Path], arguments: list[str], message: str) -> None:
    _, sweep = swept
    before = sorted(sweep.iterdir())
    done = train_command("-m", *(argument.format(sweep=sweep) for argument in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message.format(sweep=sweep)}\n")
    assert sorted(sweep.iterdir()) == before


MISTAKES = {
    ("seed=0,1", "trainer.devices=2"): (
        "trainer.devices=2 cannot be combined with -m: each run of a sweep gets one device. Type trainer.devices=1, and "
        "hydra/launcher=joblib to use all devices, or train without -m"
    ),
    ("optimizer=adam,sdg",): ("optimizer=sdg is not an option. Did you mean 'sgd'?"),
    ("model.dropout=interval(0.1,0.2)",): (
        "model.dropout=interval(0.1,0.2) is a range without single values; type a list of values, or search with "
        "hydra/sweeper=optuna"
    ),
    ("model.dropout=1.5,2",): "model.dropout=1.5 is out of range: it must be at least 0 and below 1",
    (
        "seed=0,1",
        "sweep.resume=latest",
    ): "{output_dir} contains no sweep; start one with -m",
    ("seed=0,1", "hydra/launcher=jobli"): ("hydra/launcher=jobli is not an option. Did you mean 'joblib'?"),
    ("seed=0,1", "hydra/launcher=ray", "hydra.launcher.ray.init.address=127.0.0.1:9"): (
        "hydra.launcher.ray.init.address=127.0.0.1:9: no Ray cluster answers at this address ([Errno 111] Connection refused)"
    ),
    ("seed=0", "hydra/sweeper=optuna"): (
        "nothing varies, so a search has nothing to choose: give a search space, such as "
        "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or 'model.dropout=choice(0,0.25,0.5)'"
    ),
    ("model.dropout=interval(0.5,0.1)", "hydra/sweeper=optuna"): (
        "model.dropout=interval(0.5,0.1) is not a search space: `low <= high` must hold, but got (low=0.5, high=0.1)."
    ),
    ("model.dropout=0.1,0.2", "hydra/sweeper=optuna", "hydra.sweeper.sampler.sed=1"): (
        "hydra.sweeper.sampler has no setting 'sed'. Did you mean 'hydra.sweeper.sampler.seed'?"
    ),
    ("model.dropout=0.1,0.2", "hydra/sweeper=optuna", "+hydra.sweeper.pruner.x=1"): (
        "hydra.sweeper: PercentilePruner.__init__() got an unexpected keyword argument 'x'"
    ),
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_in_a_sweep_is_refused_at_once(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = train_command("-m", *arguments, f"output_dir={tmp_path}")
    message = MISTAKES[arguments].format(output_dir=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_optuna_says_what_to_install(tmp_path: Path) -> None:
    program = (
        f"import sys, runpy; sys.modules['optuna'] = None; sys.argv[0] = '{PROJECT}/scripts/train.py'; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    typed = ["-m", "seed=0,1", "hydra/sweeper=optuna", f"output_dir={tmp_path}"]
    command = [sys.executable, "-W", "ignore", "-c", program, *typed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (
        WAITING.sub("", done.stderr)
        == f"Error: Optuna is not installed; type: pip install -e '{PROJECT}[search]'\n"
    )
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
