"""Sweeps side by side: real processes, a real Ray cluster of two nodes, and jobs submitted to this machine."""

import contextlib
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from submitit.slurm.slurm import SlurmExecutor
from test_sweeps import TINY

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.settings.config import PROJECT
from cnn_lab.sweeps.launchers import check_launcher, take_gpu
from conftest import read_result, train_command

SMALL = [*TINY, "model.channels=[4]", "trainer.max_epochs=2"]
RAY = str(Path(sys.executable).with_name("ray"))


def read_runs(output_dir: Path) -> list[dict[str, Any]]:
    return [read_result(path.parent) for path in sorted(output_dir.glob("sweeps/*/*/result.json"))]


def find_in_guide(launcher: str) -> list[str]:
    """The arguments of the command that the guide shows for a launcher."""
    text = (PROJECT / "docs" / "clusters.md").read_text()
    return re.search(rf"^python scripts/train.py (-m hydra/launcher={launcher} .*)$", text, re.MULTILINE)[
        1
    ].split()


def find_interval(run: dict[str, Any]) -> tuple[datetime, datetime]:
    start = datetime.fromisoformat(run["started"])
    return start, start + timedelta(seconds=run["seconds"])


def find_most_at_once(runs: list[dict[str, Any]]) -> int:
    intervals = [find_interval(run) for run in runs]
    return max(sum(start <= moment < end for start, end in intervals) for moment, _ in intervals)


def test_joblib_divides_the_cores(tmp_path: Path) -> None:
    done = train_command(
        *find_in_guide("joblib"), "hydra.launcher.n_jobs=2", *SMALL, f"output_dir={tmp_path}"
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "2 side by side, 1 CPU thread each"
    runs = read_runs(tmp_path)
    assert [run["status"] for run in runs] == ["completed"] * 4
    assert {run["device"] for run in runs} == {"CPU with 1 thread"}
    assert find_most_at_once(runs) == 2
    alone = tmp_path / "alone"
    assert train_command(*SMALL, "model.dropout=0", "seed=1", f"output_dir={alone}").returncode == 0
    (run,) = alone.glob("runs/*")
    assert read_result(run)["test/loss"] == runs[1]["test/loss"]


@pytest.mark.slow
def test_a_batch_of_one_leaves_the_next_batches_their_places(tmp_path: Path) -> None:
    """A search of two trials at a time, one of whose first two is refused."""
    done = train_command(
        "-m", "hydra/sweeper=optuna", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY, "seed=5",
        "hydra/sweeper/sampler=random", "hydra/sweeper/pruner=none", "hydra.sweeper.n_jobs=2",
        "model.channels=choice([2],[2,2,2,2,2])", "model.dropout=interval(0,0.5)", "hydra.sweeper.n_trials=4",
        "trainer.max_epochs=1", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    arranged = re.findall(r"^(\d) side by side", done.stdout, re.MULTILINE)
    assert arranged == ["1", "2"]


JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


def test_gpus_are_dealt_out_one_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that says it has two; the runs of a GPU that is not there are not started."""
    monkeypatch.setattr("cnn_lab.sweeps.launchers.count_gpus", lambda trainer: 2)
    settings: dict[str, Any] = {"trainer": {"accelerator": "gpu", "devices": 1}, "sweep": {"jobs_per_gpu": 1}}
    launcher = {"_target_": JOBLIB}
    with take_gpu(settings, launcher, tmp_path) as first, take_gpu(settings, launcher, tmp_path) as second:
        assert [run["trainer"]["devices"] for run in (first, second)] == [[0], [1]]
        with (
            pytest.raises(CnnLabError, match="other runs of this sweep use all GPUs"),
            take_gpu(settings, launcher, tmp_path),
        ):
            pass
    with take_gpu(settings, launcher, tmp_path) as again:
        assert again["trainer"]["devices"] == [0]
    shared = {**settings, "sweep": {"jobs_per_gpu": 2}}
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(take_gpu(shared, launcher, tmp_path)) for _ in range(4)]
        assert [run["trainer"]["devices"] for run in taken] == [[0], [1], [0], [1]]


@pytest.mark.parametrize(
    ("n_jobs", "message"),
    [
        (0, "hydra.launcher.n_jobs=0 is out of range: it must be at least 1, or -1"),
        (
            3,
            (
                "hydra.launcher.n_jobs=3: the GPUs of this machine have room for 2; type hydra.launcher.n_jobs=2, or let more "
                "runs share a GPU with sweep.jobs_per_gpu"
            ),
        ),
    ],
)
def test_more_or_fewer_runs_at_once_than_there_can_be_are_refused(
    n_jobs: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnn_lab.sweeps.launchers.count_gpus", lambda trainer: 2)
    launcher = OmegaConf.create({"_target_": JOBLIB, "n_jobs": n_jobs})
    config: dict[str, Any] = {"trainer": {"accelerator": "auto"}, "sweep": {"jobs_per_gpu": 1}}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_launcher(launcher, config)
    check_launcher(OmegaConf.create({**launcher, "n_jobs": 2}), config)


@pytest.mark.parametrize("name", ["joblib", "ray", "submitit"])
def test_a_launcher_that_is_not_installed_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"hydra_{name}_launcher"
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{package}", None)
    launcher = OmegaConf.create({"_target_": f"hydra_plugins.{package}.x.Launcher"})
    extra = {"joblib": "parallel", "ray": "ray", "submitit": "slurm"}[name]
    message = f"the launcher {name}_launcher is not installed; type: pip install -e '{PROJECT}[{extra}]'"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_launcher(launcher, {})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("target", [JOBLIB, "hydra._internal.core_plugins.basic_launcher.BasicLauncher"])
def test_a_sweep_on_a_gpu_that_is_not_there_is_refused_at_once(target: str) -> None:
    launcher = OmegaConf.create({"_target_": target, "n_jobs": -1})
    with pytest.raises(ConfigError, match=r"^trainer\.accelerator=gpu: PyTorch finds no GPU on this machine"):
        check_launcher(launcher, {"trainer": {"accelerator": "gpu"}, "sweep": {"jobs_per_gpu": 1}})


def test_a_ray_cluster_that_wants_a_token_is_one_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"hydra.launcher.ray.init.address=127.0.0.1:{server.getsockname()[1]}"
        done = train_command(
            "-m", "hydra/launcher=ray", address, "seed=0,1", f"output_dir={tmp_path}", HOME=str(tmp_path), RAY_AUTH_MODE="token",
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        (
            f"Error: {address}: RAY_AUTH_MODE=token is set, and there is no token. Set RAY_AUTH_TOKEN, or write the "
            "cluster's token to ~/.ray/auth_token\n"
        ),
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two Ray nodes with a CPU each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = ["--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000"]
    address = ""
    try:
        for role in (["--head", f"--port={port}", "--include-dashboard=false"], ["--address={}"]):
            command = [RAY, "start", *(word.format(address) for word in role), *quiet]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            address = address or re.search(rf"[\d.]+:{port}", done.stdout)[0]
        yield address
    finally:
        subprocess.run([RAY, "stop", "--force"], capture_output=True)


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_runs_on_both(cluster: str, tmp_path: Path) -> None:
    ray = [*find_in_guide("ray"), f"hydra.launcher.ray.init.address={cluster}"]
    done = train_command(*ray, *SMALL, f"output_dir={tmp_path}", no_proxy="*")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "on 2 Ray nodes"
    runs = read_runs(tmp_path)
    assert [run["status"] for run in runs] == ["completed"] * 4
    assert find_most_at_once(runs) == 2  # each node has a CPU, and each run takes one
    more = "hydra.launcher.ray.remote.num_gpus=0.5"
    refused = train_command(*ray, more, f"output_dir={tmp_path}", no_proxy="*")
    assert (refused.returncode, refused.stderr) == (
        2,
        f"Error: {more}: no node of the cluster has more than 0\n",
    )


@pytest.mark.slow
def test_submitit_runs_jobs_of_this_machine(tmp_path: Path) -> None:
    done = train_command("-m", "hydra/launcher=submitit_local", *SMALL, "seed=0,1", f"output_dir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [run["status"] for run in read_runs(tmp_path)] == ["completed"] * 2
    assert "submitted as jobs with 1 CPU thread each" in done.stdout


def test_the_slurm_launcher_composes_and_submitit_knows_its_settings() -> None:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", ["hydra/launcher=submitit_slurm"], return_hydra_config=True)
    launcher = {key: value for key, value in config.hydra.launcher.items() if key != "submitit_folder"}
    assert launcher.pop("_target_").endswith("SlurmLauncher")
    # What submitit.AutoExecutor takes for every kind of executor; the rest are Slurm's own.
    general = {
        "name",
        "timeout_min",
        "nodes",
        "tasks_per_node",
        "cpus_per_task",
        "gpus_per_node",
        "mem_gb",
        "stderr_to_stdout",
    }
    specific = set(launcher) - general - {"max_num_timeout"}
    assert specific <= set(SlurmExecutor._valid_parameters())
    assert (launcher["cpus_per_task"], launcher["max_num_timeout"]) == (4, 3)
