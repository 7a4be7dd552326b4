"""Searches with Optuna: the grammar of the search space, pruning, resuming, and what comes out."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from test_sweeps import TINY, end_sweep, only_sweep, read_runs, run_advice, run_again, start_sweep

from cnn_lab.sweeps.search import measure_importance, read_space
from cnn_lab.sweeps.study import RUN, find_trial, open_study
from conftest import read_result, train_command

SEARCH = [
    "-m", "hydra/sweeper=optuna", *TINY, "model.channels=[4]", "model.dropout=0", "optimizer.lr=tag(log,interval(1e-9,1))", "trainer.max_epochs=4", "hydra.sweeper.n_trials=6",
    "hydra.sweeper.sampler.n_startup_trials=20", "hydra.sweeper.pruner.n_startup_trials=1", "hydra/sweeper/pruner=median",
]  # fmt: skip


# Writes into the journal of a search, and is killed in the middle of it.
WRITER = """
import os, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from cnn_lab.sweeps.study import open_study
settings = {"storage": None, "study_name": None, "pruner": {"_target_": "optuna.pruners.NopPruner"}}
study = open_study(OmegaConf.create(settings), Path(sys.argv[1]))
os.fsync = lambda file: (print("writing", flush=True), time.sleep(600))
study.set_user_attr("killed", True)
"""


def read_study(sweep: Path, name: str) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(sweep / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=1,2", CategoricalDistribution(["1", "2"])),
        ("a=choice([8,16],[16,32])", CategoricalDistribution(["[8,16]", "[16,32]"])),
        ("a=choice(relu,tanh)", CategoricalDistribution(["relu", "tanh"])),
        ("a=range(1,5)", IntDistribution(1, 4)),
        ("a=range(1,10,step=2)", IntDistribution(1, 9, step=2)),
        ("a=range(0.1,0.5,step=0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("a=shuffle(range(1,4))", CategoricalDistribution(["1", "2", "3"])),
        ("a=int(interval(1,4))", IntDistribution(1, 4)),
        ("a=interval(0.5,4)", FloatDistribution(0.5, 4)),
        ("a=tag(log,int(interval(1,100)))", IntDistribution(1, 100, log=True)),
        ("a=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
    ],
)
def test_the_search_space_is_what_hydra_would_sweep(override: str, distribution: Any) -> None:
    parser = OverridesParser.create()
    space, fixed = read_space(parser.parse_overrides(["seed=3", override]))
    assert fixed == ["seed=3"]
    found = space["a"]
    if "shuffle" in override:
        assert sorted(found.choices) == list(distribution.choices)
    elif isinstance(distribution, FloatDistribution):
        assert (found.low, found.high, found.step, found.log) == pytest.approx(
            (distribution.low, distribution.high, distribution.step, distribution.log)
        )
    else:
        assert found == distribution


def test_what_is_typed_replaces_what_a_file_searches() -> None:
    overrides = OverridesParser.create().parse_overrides(["a=choice(1,2)", "b=interval(0,1)", "a=7"])
    space, fixed = read_space(overrides)
    assert (list(space), fixed) == (["b"], ["a=7"])


def test_a_search_prunes_bad_trials_survives_a_kill_and_names_the_best(tmp_path: Path) -> None:
    def third_has_begun(runs: dict[str, dict[str, Any]]) -> bool:
        return len(runs) > 2 and list(runs.values())[2].get("epochs", 0) >= 1

    code, _ = end_sweep(start_sweep(third_has_begun, tmp_path, *SEARCH), signal.SIGKILL)
    sweep = only_sweep(tmp_path)
    assert code == -signal.SIGKILL
    before = read_runs(sweep)
    elsewhere, name = tmp_path / "elsewhere", sweep.name
    (elsewhere / "sweeps").mkdir(parents=True)
    sweep = sweep.rename(elsewhere / "sweeps" / "renamed")
    record = yaml.safe_load((sweep / "sweep.yaml").read_text())
    assert record.pop("origin") == str(tmp_path / "sweeps" / name)
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(record))  # as older versions wrote it
    with subprocess.Popen([sys.executable, "-c", WRITER, str(sweep)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
        writer.kill()
    done = train_command(*SEARCH, f"output_dir={elsewhere}", "sweep.resume=latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(rf"6 trials in {sweep}; [2-4] are already complete\n", done.stdout)
    runs = read_runs(sweep)
    assert {name: runs[name]["started"] for name in before} == {
        name: run["started"] for name, run in before.items()
    }
    trials = [trial for trial in read_study(sweep, name).trials if trial.state != TrialState.FAIL]
    assert len(trials) == 6
    paths = {trial.number: sweep / Path(trial.user_attrs["run"]).name for trial in trials}
    for trial in trials:
        result = read_result(paths[trial.number])
        bad = float(trial.params["optimizer.lr"]) < 1e-6
        if bad:
            assert trial.value is None or trial.value < 0.5
        assert result["status"] == {"COMPLETE": "completed", "PRUNED": "pruned"}[trial.state.name]
        assert trial.state == TrialState.PRUNED or trial.value == result["best"]["val/accuracy"]
        assert len(trial.intermediate_values) == result["epochs"]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(read_result(paths[trial.number])["epochs"] < 4 for trial in pruned)
    best = max((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value)
    assert best.params["optimizer.lr"] > 1e-5
    assert f"Best run: {paths[best.number]}\n" in done.stdout
    assert run_again(done.stdout)["fingerprint"] == read_result(paths[best.number])["fingerprint"]
    other = [argument.replace("1e-9", "1e-8") for argument in SEARCH]
    refused = train_command(*other, f"output_dir={elsewhere}", "sweep.resume=latest")
    assert refused.stderr == (
        f"Error: {sweep} was run with optimizer.lr=tag(log,interval(1e-9,1)), now it is tag(log,interval(1e-8,1)): type the same "
        "again, or leave sweep.resume out to start a new sweep\n"
    )


def test_failed_trials_are_failed_trials_and_a_database_may_hold_them(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/study.db"
    done = train_command(
        "-m", "search=cnn", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", *TINY,
        "hydra/sweeper/sampler=random", "hydra/sweeper/pruner=none", "model.channels=choice([2],[2,2,2,2,2])",
        "seed=2", f"hydra.sweeper.storage={database}", "hydra.sweeper.study_name=shared", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    study = optuna.load_study(study_name="shared", storage=database)
    states = {trial.params["model.channels"]: trial.state.name for trial in study.trials}
    assert states == {"[2]": "COMPLETE", "[2,2,2,2,2]": "FAIL"}
    assert len(study.trials) == 4
    assert "rejected: model: block 5" in done.stdout
    assert not (only_sweep(tmp_path) / "study.log").exists()
    assert (
        run_again(done.stdout)["fingerprint"]
        == read_result(Path(study.best_trial.user_attrs[RUN]))["fingerprint"]
    )
    assert " of 40) to say how much each key matters." in done.stdout
    paths = [Path(trial.user_attrs[RUN]) for trial in study.trials if trial.state == TrialState.COMPLETE]
    best = {path.name.partition("-")[2] for path in paths}
    done = run_advice(done.stdout, "seeds that chose nothing", seed="3,4")
    assert "Best on validation images, over 2 seeds: kernel_sizes " in done.stdout
    assert len(study.get_trials()) == 4
    _, repeated = sorted((tmp_path / "sweeps").iterdir())
    runs = read_runs(repeated)
    assert {run["status"] for run in runs.values()} == {"completed"}
    assert {name.partition("-")[2].rpartition("_seed")[0] for name in runs} == best


def test_a_renamed_search_finds_its_study_in_a_database(tmp_path: Path) -> None:
    pruner = {"_target_": "optuna.pruners.NopPruner"}
    settings = OmegaConf.create(
        {"storage": f"sqlite:///{tmp_path}/study.db", "study_name": None, "pruner": pruner}
    )
    for name in ("begun", "renamed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.yaml").write_text(yaml.safe_dump({"origin": str(tmp_path / "begun")}))
    open_study(settings, tmp_path / "begun").add_trial(optuna.create_trial(value=0.75))
    assert [trial.value for trial in open_study(settings, tmp_path / "renamed").trials] == [0.75]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hydra.sweeper.n_jobs=-1", "hydra.sweeper.n_jobs=-1 is out of range: it must be an integer of at least 1"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs=0 is out of range: it must be an integer of at least 1"),
        ("hydra.sweeper.n_trials=2.5", "hydra.sweeper.n_trials=2.5 is out of range: it must be an integer of at least 1"),
        (
            "data.val_size=0",
            "A search chooses by val/accuracy, which needs validation images, and data.val_size=0 leaves them out",
        ),
        (
            "trainer.limit_val_batches=0",
            "A search chooses by val/accuracy, which needs validation images, and trainer.limit_val_batches=0 leaves them out",
        ),
    ],
)  # fmt: skip
def test_a_search_that_could_not_end_or_choose_is_not_started(
    typed: str, message: str, tmp_path: Path
) -> None:
    key = typed.partition("=")[0]
    others = [item for item in SEARCH if item.partition("=")[0] != key]
    done = train_command(*others, typed, f"output_dir={tmp_path}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")
    assert not list(tmp_path.iterdir())


def test_a_search_that_found_nothing_fails_and_says_why_once(tmp_path: Path) -> None:
    done = train_command(*SEARCH, "trainer.limit_train_batches=1e-4", f"output_dir={tmp_path}")
    reason = read_runs(only_sweep(tmp_path)).popitem()[1]["error"]
    assert f"6 of 6 trials failed:\n  {reason} (all 6 trials)\n" in done.stdout
    assert done.stdout.count(reason) == 1
    assert (done.returncode, done.stderr) == (
        1,
        "Error: The search has found nothing: none of its 6 trials was completed with a val/accuracy to choose by\n",
    )


def test_importance_comes_with_its_uncertainty() -> None:
    """Of 60 trials in which only x matters; a third of them knows less."""
    generator = np.random.default_rng(0)
    uniform = FloatDistribution(0, 1)
    trials = [
        create_trial(value=x, params={"x": x, "y": y}, distributions={"x": uniform, "y": uniform})
        for x, y in generator.random((60, 2))
    ]
    shares = measure_importance(trials)
    assert list(shares) == ["x", "y"]
    assert shares["x"][0] > 0.8
    assert sum(share for share, _ in shares.values()) == pytest.approx(1)
    assert 0.01 < shares["x"][1] < measure_importance(trials[:20])["x"][1] < 0.5


def test_a_trial_is_taken_up_in_another_process() -> None:
    study = optuna.create_study()
    study.ask().set_user_attr(RUN, "/sweep/0-x")
    find_trial(study, Path("/sweep/0-x")).report(0.5, 1)
    assert study.trials[0].intermediate_values == {1: 0.5}, (
        "Trial(study, _trial_id), which is private, has changed"
    )


def test_optuna_s_dashboard_opens_a_study_as_it_lies(tmp_path: Path) -> None:
    dashboard = shutil.which("optuna-dashboard", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    settings = {"storage": None, "study_name": None, "pruner": {"_target_": "optuna.pruners.NopPruner"}}
    open_study(OmegaConf.create(settings), tmp_path).add_trial(optuna.create_trial(value=0.75))
    before = (tmp_path / "study.log").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [dashboard, str(tmp_path / "study.log"), "--port", address.partition(":")[2]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            opener, found = urllib.request.build_opener(urllib.request.ProxyHandler({})), None
            while not found:  # it says that it listens a moment before it does
                assert process.poll() is None, process.stderr.read()
                with contextlib.suppress(urllib.error.URLError):
                    found = json.load(opener.open(f"http://{address}/api/studies/0?after=0"))
        finally:
            process.terminate()
    assert (found["name"], [trial["values"] for trial in found["trials"]]) == (tmp_path.name, [[0.75]])
    assert (tmp_path / "study.log").read_bytes() == before
