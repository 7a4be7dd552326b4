"""Commands in any order on runs of a moment: after each of them, what is on disk is true.

The commands are the user's own, run in this process. A run is stopped in one of its network's forward passes,
wherever that lies: in a step, between two steps of the optimizer, in validation, in the test.
"""

import contextlib
import functools
import io
import itertools
import os
import runpy
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule
from torch.nn.modules.module import register_module_forward_pre_hook

from cnn_lab.model import CNN
from cnn_lab.runs.record import read_result, read_rows, read_status
from cnn_lab.runs.resume import WITH_AN_END
from cnn_lab.runs.trust import read_yaml
from cnn_lab.settings.config import PROJECT, check_config, flatten
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.sweeps.results import collect, compare
from cnn_lab.training import train
from cnn_lab.use.evaluation import evaluate
from conftest import compose_config

Settings = dict[str, str]
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
SWEPT: list[Settings] = [
    {},
    {"optimizer": "sgd,adam"},
    {"trainer.max_epochs": "1,2"},
    {"trainer.accumulate_grad_batches": "1,2"},
]
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
    return {**chosen, **draw(st.sampled_from(SCHEDULES)), **draw(st.sampled_from(STOPPING))}


def type_settings(settings: Settings) -> list[str]:
    """As they are typed, groups first, since an option of one replaces all that is in it."""
    return [f"{key}={settings[key]}" for key in sorted(settings, key=lambda key: "." in key)]


@contextlib.contextmanager
def stopping(stop: tuple[int, signal.Signals] | None, folder: Path) -> Iterator[None]:
    """Let the signal come in the CNN's so many-th forward pass.

    For SIGKILL, which would end this process, what `folder` holds then is kept, and comes back at the end.
    """
    passes = itertools.count(1)
    kept = folder.with_name("kept")

    def look(module: Any, _: Any) -> None:
        if not isinstance(module, CNN) or stop is None or next(passes) != stop[0]:
            return
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


def stamp(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each file's time and size, but for the locks, which asking for touches."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


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
    assert evaluate(checkpoint)["accuracy"] == result["test/accuracy"]
    if found:
        assert evaluate(checkpoint, "val")["accuracy"] == max(found)
    whole, learned = train_whole(tuple(type_settings({**TINY, **settings}))), measure(run)
    assert learned["result"] == whole["result"], (learned["result"], whole["result"])
    assert learned["rows"] == whole["rows"], (learned["rows"], whole["rows"])
    assert learned["weights"].keys() == whole["weights"].keys()
    differing = [
        name for name, value in learned["weights"].items() if not torch.equal(value, whole["weights"][name])
    ]
    assert not differing


class Sequences(RuleBasedStateMachine):
    """Runs and sweeps in a folder of their own, with the settings that each has been given."""

    runs = Bundle("runs")
    sweeps = Bundle("sweeps")

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.outputs = self.home / "outputs"
        self.outputs.mkdir()
        self.settings: dict[Path, Settings] = {}
        self.extended: set[Path] = set()
        self.typed: dict[Path, Settings] = {}  # for each sweep, with the values of what is swept

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    def command(self, script: str, *arguments: str, stop: Any = None) -> int:
        """Run a script; returns its exit code. What is refused leaves everything as it was."""
        before, environment, argv = stamp(self.outputs), dict(os.environ), sys.argv
        sys.argv = [str(PROJECT / "scripts" / f"{script}.py"), *arguments]
        out, code = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), 0
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            stopping(stop, self.outputs),
            warnings.catch_warnings(record=True),  # a command sets filters, which are its process's own
        ):
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                sys.argv = argv
                os.environ.clear()
                os.environ.update(environment)
        self.said = text = out.buffer.getvalue().decode()
        assert code != 1, text
        assert "Traceback" not in text, text
        if code == 2:
            assert stamp(self.outputs) == before, text
        if code > 2:
            assert stop is not None, text
        return code

    def check_end(self, run: Path, code: int) -> None:
        """A run that a command has trained is completed, or was interrupted by the signal."""
        result = read_result(run)
        if code == 0:
            check_completed(run, self.settings[run])
        elif result:
            assert read_status(run, result) == "interrupted", result
        if (run / "config.yaml").exists():
            expected = check_config(compose_config(*type_settings({**TINY, **self.settings[run]})))
            assert result["fingerprint"] == fingerprint(expected)
        assert not list(run.rglob("*.new"))

    @rule(target=runs, settings=settings_of_runs(), stop=STOPS)
    def train(self, settings: Settings, stop: Any) -> Any:
        before = set(self.outputs.glob("runs/*"))
        code = self.command(
            "train", *type_settings({**TINY, **settings}), f"output_dir={self.outputs}", stop=stop
        )
        new = list(set(self.outputs.glob("runs/*")) - before)
        assert len(new) <= (code != 2)
        for run in new:
            self.settings[run] = settings
            self.check_end(run, code)
        return multiple(*new)

    @rule(run=runs, stop=STOPS)
    def resume(self, run: Path, stop: Any) -> None:
        self.go_on(run, {}, stop)

    @rule(run=runs, key=st.sampled_from(["max_epochs", "max_steps"]), more=st.integers(1, 3), stop=STOPS)
    def extend(self, run: Path, key: str, more: int, stop: Any) -> None:
        done = read_result(run).get(key.replace("max_", ""), 0)
        self.go_on(run, {f"trainer.{key}": str(done + more)}, stop)

    def go_on(self, run: Path, longer: Settings, stop: Any) -> None:
        """Resume a run, which is refused if, and only if, there is nothing to go on with, or from."""
        earlier, others = read_result(run), self.stamp_others([run])
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
        code = self.command("train", f"resume={run}", *type_settings(longer), stop=stop)
        assert (code != 2) == possible, self.said
        assert self.stamp_others([run]) == others
        if code != 2:
            self.settings[run] = {**self.settings[run], **longer}
            self.extended |= {run} if longer else set()
            self.check_end(run, code)
        if code == 0 and earlier.get("status") == "completed":
            assert read_result(run)["steps"] > earlier["steps"]

    @rule(target=sweeps, settings=settings_of_runs(), swept=st.sampled_from(SWEPT), stop=STOPS)
    def sweep(self, settings: Settings, swept: Settings, stop: Any) -> Any:
        typed = {**settings, **swept, "seed": "0,1"}
        before = set(self.outputs.glob("sweeps/*"))
        code = self.command(
            "train", "-m", *type_settings({**TINY, **typed}), f"output_dir={self.outputs}", stop=stop
        )
        new = list(set(self.outputs.glob("sweeps/*")) - before)
        assert len(new) <= (code != 2)
        for path in new:
            self.typed[path] = typed
            self.check_sweep(path, code)
        return multiple(*new)

    @rule(sweep=sweeps, stop=STOPS)
    def resume_sweep(self, sweep: Path, stop: Any) -> None:
        done = [run for run in sweep.iterdir() if read_result(run).get("status") == "completed"]
        before = {run: stamp(run) for run in done}
        others = self.stamp_others(sweep.iterdir())
        typed = type_settings({**TINY, **self.typed[sweep]})
        code = self.command(
            "train", "-m", *typed, f"output_dir={self.outputs}", f"sweep.resume={sweep}", stop=stop
        )
        assert code != 2, self.said
        assert {run: stamp(run) for run in done} == before
        assert self.stamp_others(sweep.iterdir()) == others
        self.check_sweep(sweep, code)

    @rule(target=runs, sweep=sweeps, number=st.integers(0, 3))
    def take_from_sweep(self, sweep: Path, number: int) -> Any:
        return multiple(*sorted(sweep.glob(f"{number}-*")))

    @rule(sweep=sweeps)
    def report(self, sweep: Path) -> None:
        runs = [path.parent for path in sweep.glob("*/result.json")]
        assert (self.command("report", str(sweep), "--output", str(self.home / "report")) == 2) == (not runs)
        if runs:
            _, settings = compare(collect([sweep]))
            for setting in settings:
                seeds = [record.settings.get("seed") for record in setting.runs if record.settings]
                assert len(seeds) == len(set(seeds)), setting

    def check_sweep(self, sweep: Path, code: int) -> None:
        """Every combination has one run, completed once the sweep is."""
        choices = [[(key, value) for value in values.split(",")] for key, values in self.typed[sweep].items()]
        expected = {}
        for settings in map(dict, itertools.product(*choices)):
            config = check_config(compose_config(*type_settings({**TINY, **settings})))
            expected[fingerprint(config)] = settings
        names = []
        for run in sorted(path.parent for path in sweep.glob("*/config.yaml")):
            names.append(fingerprint(check_config(read_yaml(run / "config.yaml"))))
            if run in self.extended:  # which need be none of the sweep's any more
                continue
            self.settings[run] = expected[names[-1]]
            assert names.count(names[-1]) == 1 or self.extended, names
            self.check_end(run, code if read_result(run)["status"] != "completed" else 0)
        if code == 0:
            assert expected.keys() <= set(names)

    def stamp_others(self, touched: Any) -> dict[Path, Any]:
        """The files of all runs but these."""
        return {run: stamp(run) for run in self.settings.keys() - set(touched)}
