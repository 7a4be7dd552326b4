"""Commands in any order on runs of a moment: after each of them, what is on disk is true.

The commands are the user's own, run in this process. A run is stopped in one of its network's forward passes,
wherever that lies: in a step, between two steps of the optimizer, in validation, in the test.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule
from torch.nn.modules.module import register_module_forward_pre_hook

from brought import find_belongings
from cnn_lab.model import CNN
from cnn_lab.runs.record import read_result, read_rows, read_status
from cnn_lab.runs.resume import WITH_AN_END
from cnn_lab.runs.trust import read_yaml
from cnn_lab.settings.config import check_config, flatten
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.sweeps.results import collect, compare
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from conftest import compose_config
from inprocess import run_here, stamp

Settings = dict[str, str | None]  # None: what `TINY` has is not typed
TINY = {
    "data.train_size": "40", "data.batch_size": "16", "data.val_size": "20", "data.eval_batch_size": "8",
    "model.channels": "[2]", "model.hidden": "[4]", "optimizer.lr": "0.02", "pictures.enabled": "false",
    "trainer.accelerator": "cpu", "trainer.limit_test_batches": "1", "trainer.log_every_n_steps": "1", "trainer.max_epochs": "2",
}  # fmt: skip
# What changes what an epoch is, where the run ends, and what has to be kept between two steps.
CHOICES = {
    "data.train_size": ["16", "64"],
    "data.val_size": ["0"],
    "data.test_each_epoch": ["true"],
    "model.dropout": ["0.3"],
    "model.norm": ["batch"],
    "optimizer": ["sgd", "adamw", "rmsprop"],
    "loss.label_smoothing": ["0.1"],
    "checkpoint_minutes": ["1e-9"],
    "trainer.accumulate_grad_batches": ["2", "3"],
    "trainer.check_val_every_n_epoch": ["2"],
    "trainer.gradient_clip_val": ["0.1"],
    "trainer.limit_train_batches": ["1", "2", "0.5"],
    "trainer.limit_val_batches": ["0", "1"],
    "trainer.max_epochs": ["1", "4", "-1"],
    "trainer.max_steps": ["1", "3", "4"],
    "trainer.min_epochs": ["2", "3"],
    "trainer.min_steps": ["5"],
    "trainer.num_sanity_val_steps": ["1"],
    "trainer.overfit_batches": ["1"],
    "+trainer.reload_dataloaders_every_n_epochs": ["1"],
}
MONITORS = ["val/loss", "val/accuracy", "train/loss", "train/accuracy"]
SCHEDULES: list[Settings] = [
    {},
    {"scheduler": "step", "scheduler.step_size": "1"},
    {"scheduler": "cosine"},
    {"scheduler": "one_cycle"},
    *({"scheduler": "plateau", "scheduler.patience": "0", "scheduler.monitor": name} for name in MONITORS),
]
STOPPING: list[Settings] = [
    {},
    *({"early_stopping.patience": "1", "early_stopping.monitor": name} for name in MONITORS),
]
OTHER_NET: Settings = {
    "model": "own",
    "model.channels": None,
    "model.hidden": None,
    "model.dropout": None,
    "model.norm": None,
}
NETS: list[Settings] = [
    {},
    {},
    *(
        {**OTHER_NET, "model._target_": f"nets_{name}"}
        for name in ("one.Net", "one.Normed", "one.Averaging", "two.Net")
    ),
]
LOGGERS: list[Settings] = [{}, {}, {}, {"logger": "csv"}, {"logger": "mlflow"}]
PRECISIONS: list[Settings] = [
    {},
    {},
    *({"trainer.precision": name} for name in ("64-true", "bf16-true", "bf16-mixed")),
]
SWEPT: list[Settings] = [
    {},
    {"optimizer": "sgd,adam"},
    {"trainer.max_epochs": "1,2"},
    {"trainer.accumulate_grad_batches": "1,2"},
    {"trainer.precision": "32-true,64-true"},
    {**OTHER_NET, "model._target_": "nets_one.Net,nets_two.Net"},
]
SEARCHED: Settings = {
    "hydra/sweeper": "optuna",
    "hydra.sweeper.n_trials": "2",
    "optimizer.lr": "interval(0.001,0.1)",
}
# What a shell may still hold of a job, a launcher, or another program.
LEFT_OVER = [
    {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "lab", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "lab", "SLURM_NTASKS": "4"}, {"RANK": "1"}, {"LOCAL_RANK": "1"}, {"WORLD_SIZE": "2"}, {"NODE_RANK": "1"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, {"PL_TRAINER_FAST_DEV_RUN": "True"}, {"PL_TRAINER_MAX_EPOCHS": "5"}, {"PL_TRAINER_LOGGER": "False"},
]  # fmt: skip
# A forward pass and what comes in it: Ctrl+C, SIGTERM, or the end of the process without another word.
STOPS = st.none() | st.tuples(
    st.integers(1, 24), st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
)


@st.composite
def settings_of_runs(draw: st.DrawFn) -> Settings:
    """A run's settings, most of which go together."""
    keys = draw(st.lists(st.sampled_from(sorted(CHOICES)), max_size=4, unique=True))
    chosen = {key: draw(st.sampled_from(CHOICES[key])) for key in keys}
    if chosen.get("trainer.max_epochs") == "-1":
        chosen.setdefault("trainer.max_steps", "3")
    for others in (SCHEDULES, STOPPING, NETS, LOGGERS, PRECISIONS, list_data(chosen.get("data.val_size"))):
        chosen |= draw(st.sampled_from(others))
    for key in (
        "scheduler.monitor",
        "early_stopping.monitor",
    ):  # which is refused where there is no validation
        if key in chosen and lacks_validation(chosen, each_epoch=key == "scheduler.monitor"):
            chosen[key] = "train/loss"
    return chosen


def lacks_validation(settings: Settings, each_epoch: bool) -> bool:
    """Whether no epoch, or not each, ends with a measurement on validation images."""
    none = {"data.val_size": "0", "trainer.limit_val_batches": "0", "data.test_each_epoch": "true"}
    some = {"trainer.check_val_every_n_epoch": "2"} if each_epoch else {}
    return any(settings.get(key) == value for key, value in {**none, **some}.items())


def list_data(val_size: str | None) -> list[Settings]:
    """Data sets besides MNIST, of about as many images as `TINY` has."""
    place = find_belongings()
    few: Settings = {"data.train_size": None, "data.val_size": val_size or "8"}
    arrays: Settings = {**few, "data": "arrays", "data.root": f"{place}/a/own.npz"}
    pictures: Settings = {**few, "data": "folder", "data.root": f"{place}/a/pictures"}
    made: Settings = {**few, "data": "own", "data.source._target_": "images_made.read", "data.noise": "90"}
    folds: Settings = {**arrays, "data.val_size": None, "data.fold": "1", "data.folds": "3"}
    return [{}, {}, {}, arrays, pictures, made, folds]


def list_swept() -> list[Settings]:
    """`SWEPT`, and two sets of images of one name."""
    place = find_belongings()
    arrays: Settings = {"data": "arrays", "data.train_size": None, "data.val_size": "8"}
    return [*SWEPT, {**arrays, "data.root": f"{place}/a/own.npz,{place}/b/own.npz"}]


def type_settings(settings: Settings) -> list[str]:
    """As they are typed, groups first, since an option of one replaces all that is in it."""
    keys = sorted(settings, key=lambda key: "." in key)
    return [f"{key}={settings[key]}" for key in keys if settings[key] is not None]


@contextlib.contextmanager
def stopping(stop: tuple[int, signal.Signals] | None, folder: Path) -> Iterator[None]:
    """Let the signal come in the CNN's so many-th forward pass.

    For SIGKILL, which would end this process, what `folder` holds then is kept, and comes back at the end.
    """
    passes = itertools.count(1)
    kept = folder.with_name("kept")

    def look(module: Any, _: Any) -> None:
        is_net = isinstance(module, CNN) or type(module).__module__.startswith("nets_")
        if not is_net or stop is None or next(passes) != stop[0]:
            return
        if stop[1] != signal.SIGINT and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            return  # a network is tried before a run listens to signals, and this process would end
        if stop[1] == signal.SIGKILL:
            shutil.copytree(folder, kept)
        signal.raise_signal(signal.SIGTERM if stop[1] == signal.SIGKILL else stop[1])

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
        if kept.exists():
            shutil.rmtree(folder)
            kept.rename(folder)


def measure(run: Path) -> dict[str, Any]:
    """What a run has learned, as the same settings give it again, however often they are stopped."""
    result = read_result(run)
    names = ("status", "ended_by", "epochs", "steps", "best", "fingerprint", "precision", "parameters")
    weights = {
        f"{path.name} {name}": value
        for path in sorted(run.glob("checkpoints/*.ckpt"))
        for name, value in torch.load(path, weights_only=True)["state_dict"].items()
    }
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(run)]
    results = {name: result.get(name) for name in (*names, "test/loss", "test/accuracy")}
    return {"result": results, "rows": rows, "weights": weights}


@functools.cache
def train_whole(typed: tuple[str, ...]) -> dict[str, Any]:
    """What a run with these settings that nothing stops has learned."""
    with tempfile.TemporaryDirectory() as folder:
        train(check_config(compose_config(*typed, f"output_dir={folder}")), Path(folder), quiet=True)
        return measure(Path(folder))


def check_completed(run: Path, settings: Settings) -> None:
    """The record of a completed run agrees with itself, and with the run that was never stopped."""
    result, rows = read_result(run), read_rows(run)
    assert result["status"] == "completed", result
    assert not {"signal", "reason", "traceback"} & result.keys(), result
    assert result["error"] is None
    assert [row["epoch"] for row in rows] == list(range(1, result["epochs"] + 1)), rows
    assert (rows[-1]["epoch"], rows[-1]["step"]) == (result["epochs"], result["steps"])
    last, best = (
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best")
    )
    assert (last["finished_epochs"], last["global_step"]) == (result["epochs"], result["steps"])
    config = check_config(read_yaml(run / "config.yaml"))
    assert result["fingerprint"] == fingerprint(config) == fingerprint(last["config"])
    found = [row["val/accuracy"] for row in rows if row.get("val/accuracy") is not None]
    epoch = result["best"]["epoch"] if found else result["epochs"]
    assert (result["best"] or {}).get("val/accuracy") == (max(found) if found else None)
    assert (best["finished_epochs"], best["global_step"]) == (epoch, rows[epoch - 1]["step"])
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert evaluate(checkpoint, trust=True)["accuracy"] == result["test/accuracy"]
    if found:
        assert evaluate(checkpoint, "val", trust=True)["accuracy"] == max(found)
    whole, learned = train_whole(tuple(type_settings({**TINY, **settings}))), measure(run)
    assert learned["result"] == whole["result"], (learned["result"], whole["result"])
    assert learned["rows"] == whole["rows"], (learned["rows"], whole["rows"])
    assert learned["weights"].keys() == whole["weights"].keys()
    differing = [
        name for name, value in learned["weights"].items() if not torch.equal(value, whole["weights"][name])
    ]
    assert not differing


class Sequences(RuleBasedStateMachine):
    """Runs and sweeps in a folder of their own, with the settings that each has been given.

    Each is known by its path below `outputs`, which is moved at times.
    """

    runs = Bundle("runs")
    sweeps = Bundle("sweeps")

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.outputs = self.home / "outputs"
        self.outputs.mkdir()
        self.moves = itertools.count(1)
        self.settings: dict[Path, Settings] = {}
        self.extended: set[Path] = set()
        self.typed: dict[Path, Settings] = {}  # for each sweep, with the values of what is swept
        self.place = Path.cwd()
        os.chdir(find_belongings())

    def teardown(self) -> None:
        os.chdir(self.place)
        shutil.rmtree(self.home)

    def command(
        self, script: str, *arguments: str, stop: Any = None, variables: Mapping[str, str] | None = None
    ) -> int:
        """Run a script; returns its exit code. What is refused leaves everything as it was."""
        before = stamp(self.home)
        code, self.said = run_here(
            script, *arguments, variables=variables, around=[stopping(stop, self.outputs)]
        )
        assert code != 1, self.said
        assert "Traceback" not in self.said, self.said
        if code == 2:
            assert stamp(self.home) == before, self.said
        if code > 2:
            assert stop is not None, self.said
        return code

    def start(self, kind: str, *typed: str, **options: Any) -> tuple[int, list[Path]]:
        """Train; returns the exit code, and which runs, or sweeps, are new."""
        before = self.find(kind)
        code = self.command("train", *typed, f"output_dir={self.outputs}", **options)
        new = sorted(self.find(kind) - before)
        assert len(new) <= (code != 2)
        return code, new

    def find(self, kind: str) -> set[Path]:
        """The runs or the sweeps that there are."""
        return {path.relative_to(self.outputs) for path in self.outputs.glob(f"{kind}/*")}

    def check_end(self, name: Path, code: int) -> None:
        """A run that a command has trained is completed, or was interrupted by the signal."""
        run = self.outputs / name
        result = read_result(run)
        if code == 0:
            check_completed(run, self.settings[name])
        elif result:
            assert read_status(run, result) == "interrupted", result
        if (run / "config.yaml").exists():
            expected = check_config(compose_config(*type_settings({**TINY, **self.settings[name]})))
            assert result["fingerprint"] == fingerprint(expected)
        assert not list(run.rglob("*.new"))

    @rule(
        target=runs, settings=settings_of_runs(), stop=STOPS, variables=st.sampled_from([{}] * 8 + LEFT_OVER)
    )
    def train(self, settings: Settings, stop: Any, variables: Mapping[str, str] | None = None) -> Any:
        code, new = self.start("runs", *type_settings({**TINY, **settings}), stop=stop, variables=variables)
        assert code != 2 or variables, self.said
        for run in new:
            self.settings[run] = settings
            self.check_end(run, code)
        return multiple(*new)

    @rule(run=runs, stop=STOPS)
    def resume(self, run: Path, stop: Any) -> None:
        self.go_on(run, {}, stop)

    @rule(run=runs, key=st.sampled_from(["max_epochs", "max_steps"]), more=st.integers(1, 3), stop=STOPS)
    def extend(self, run: Path, key: str, more: int, stop: Any) -> None:
        done = read_result(self.outputs / run).get(key.replace("max_", ""), 0)
        self.go_on(run, {f"trainer.{key}": str(done + more)}, stop)

    def go_on(self, name: Path, longer: Settings, stop: Any) -> None:
        """Resume a run, which is refused if, and only if, there is nothing to go on with, or from."""
        run = self.outputs / name
        earlier, others = read_result(run), self.stamp_others([name])
        config = check_config(read_yaml(run / "config.yaml")) if (run / "config.yaml").exists() else None
        limit = f"trainer.{earlier.get('ended_by')}"
        possible = (run / "checkpoints" / "last.ckpt").exists() and bool(config)
        if config and longer != {key: str(flatten(config)[key]) for key in longer}:
            possible &= not (longer and config["scheduler"]["_target_"] in WITH_AN_END)
            possible &= not (longer and earlier.get("steps", 0) % earlier.get("steps_per_epoch", 1))
        has_ended = earlier.get("status") == "completed" or (longer and "ended_by" in earlier)
        possible &= not has_ended or limit in longer
        if possible and "trainer.max_steps" in longer:
            saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
            possible = int(longer["trainer.max_steps"]) > saved
        code = self.command("train", f"resume={run}", "trust=true", *type_settings(longer), stop=stop)
        assert (code != 2) == possible, self.said
        assert self.stamp_others([name]) == others
        if code != 2:
            self.settings[name] = {**self.settings[name], **longer}
            self.extended |= {name} if longer else set()
            self.check_end(name, code)
        if code == 0 and earlier.get("status") == "completed":
            assert read_result(run)["steps"] > earlier["steps"]

    @rule(
        target=sweeps,
        settings=settings_of_runs(),
        swept=st.deferred(lambda: st.sampled_from(list_swept())),
        stop=STOPS,
    )
    def sweep(self, settings: Settings, swept: Settings, stop: Any) -> Any:
        return self.start_sweep({**settings, **swept, "seed": "0,1"}, stop)

    @rule(target=sweeps, settings=settings_of_runs(), stop=STOPS)
    def search(self, settings: Settings, stop: Any) -> Any:
        return self.start_sweep({**settings, **SEARCHED}, stop)

    def start_sweep(self, typed: Settings, stop: Any) -> Any:
        code, new = self.start("sweeps", "-m", *type_settings({**TINY, **typed}), stop=stop)
        for path in new:
            self.typed[path] = typed
            self.check_sweep(path, code)
        return multiple(*new)

    @rule(sweep=sweeps, stop=STOPS)
    def resume_sweep(self, sweep: Path, stop: Any) -> None:
        runs = self.find(str(sweep))
        done = [run for run in runs if read_result(self.outputs / run).get("status") == "completed"]
        before = {run: stamp(self.outputs / run) for run in done}
        others = self.stamp_others(runs)
        typed = type_settings({**TINY, **self.typed[sweep]})
        resumed = f"sweep.resume={self.outputs / sweep}"
        code = self.command("train", "-m", *typed, f"output_dir={self.outputs}", resumed, stop=stop)
        assert code != 2, self.said
        assert {run: stamp(self.outputs / run) for run in done} == before
        assert self.stamp_others(runs) == others
        self.check_sweep(sweep, code)

    @rule(target=sweeps, sweep=sweeps, stop=STOPS)
    def repeat(self, sweep: Path, stop: Any) -> Any:
        """Train the best settings of a sweep again, with the same seeds: all of them, for there are two at most."""
        runs = self.find(str(sweep))
        done = any(read_result(self.outputs / run).get("status") == "completed" for run in runs)
        others, typed = self.stamp_others([]), {**self.typed[sweep], "seed": "0,1"}
        repeated = f"sweep.repeat={self.outputs / sweep}"
        code, new = self.start("sweeps", "-m", *type_settings({**TINY, **typed}), repeated, stop=stop)
        varies = sum("," in str(value) for value in typed.values()) > 1  # something besides the seed
        assert (code != 2) == (done and varies), self.said
        assert self.stamp_others([]) == others
        for path in new:
            self.typed[path] = typed
            self.check_sweep(path, code, is_whole=False)
        return multiple()

    @rule(target=runs, sweep=sweeps, number=st.integers(0, 3))
    def take_from_sweep(self, sweep: Path, number: int) -> Any:
        return multiple(*sorted(run for run in self.find(str(sweep)) if run.name.startswith(f"{number}-")))

    @rule(sweep=sweeps)
    def report(self, sweep: Path) -> None:
        path = self.outputs / sweep
        runs = [file.parent for file in path.glob("*/result.json")]
        assert (self.command("report", str(path), "--output", str(self.home / "report")) == 2) == (not runs)
        if runs:
            _, settings = compare(collect([path]))
            for setting in settings:
                seeds = [record.settings.get("seed") for record in setting.runs if record.settings]
                assert len(seeds) == len(set(seeds)), setting

    @rule()
    def move(self) -> None:
        """Give the folder of all results another name."""
        self.outputs = self.outputs.rename(self.home / f"outputs {next(self.moves)}")

    def check_sweep(self, sweep: Path, code: int, is_whole: bool = True) -> None:
        """Every combination has one run, completed once the sweep is; a search has as many as asked for."""
        typed = self.typed[sweep]
        swept = [key for key, value in typed.items() if "," in str(value)]
        names, done = [], 0
        for run in sorted(self.find(str(sweep))):
            path = self.outputs / run
            if not (path / "config.yaml").exists():
                continue
            names.append(fingerprint(check_config(read_yaml(path / "config.yaml")), swept))
            done += read_result(path)["status"] == "completed"
            if run in self.extended:  # which need be none of the sweep's any more
                continue
            own = dict(item.split("=", 1) for item in read_result(path)["overrides"])
            others = {key: value for key, value in typed.items() if not key.startswith("hydra")}
            self.settings[run] = others | {key: own[key] for key in swept}
            assert names.count(names[-1]) == 1 or self.extended, names
            self.check_end(run, 0 if read_result(path)["status"] == "completed" else code)
        if code == 0 and is_whole and "hydra/sweeper" in typed:
            assert done >= int(typed["hydra.sweeper.n_trials"])
        elif code == 0 and is_whole:
            assert self.list_expected(typed, swept) <= set(names)

    def list_expected(self, typed: Settings, swept: list[str]) -> set[str]:
        """The fingerprints of all combinations."""
        expected = set()
        for values in itertools.product(*(str(typed[key]).split(",") for key in swept)):
            settings = {**TINY, **typed, **dict(zip(swept, values, strict=True))}
            expected.add(fingerprint(check_config(compose_config(*type_settings(settings))), swept))
        return expected

    def stamp_others(self, touched: Any) -> dict[Path, Any]:
        """The files of all runs but these."""
        return {run: stamp(self.outputs / run) for run in self.settings.keys() - set(touched)}
