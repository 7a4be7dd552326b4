"""Six kinds of sweep by six commands: each of the 36 says, and does, what is right."""

import csv
import functools
import json
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from brought import bring
from cnn_lab.runs.record import read_result
from conftest import WAITING, train_command
from inprocess import run_here, stamp
from sequences import measure

TINY = [
    "data.val_size=20", "data.batch_size=16", "data.mean=0.25", "data.std=0.25", "optimizer.lr=0.02", "pictures.enabled=false",
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "data=arrays",
]  # fmt: skip
PLAIN = {
    "data.root": "a/own.npz",
    "model": "mlp",
    "model.hidden": "[4]",
    "trainer.precision": "32-true",
}
# What each kind of sweep has in place of PLAIN, and what varies in it.
KINDS: dict[str, tuple[dict[str, str | None], str, list[str]]] = {
    "networks": ({"model": None, "model.hidden": None}, "model._target_", ["nets_one.Net", "nets_two.Net"]),
    "data": ({}, "data.root", ["a/own.npz", "b/own.npz"]),
    "devices": ({}, "trainer.devices", ["1", "2"]),
    "logger": ({"logger": "mlflow"}, "model.dropout", ["0", "0.5"]),
    "moved": ({}, "model.dropout", ["0", "0.5"]),
    "precision": ({}, "trainer.precision", ["bf16-true", "64-true"]),
}


class Swept(NamedTuple):
    """Runs of two settings, with the same seeds each, in a folder that may be copied with all that they need."""

    place: Path
    path: Path
    key: str
    values: list[str]
    typed: list[str]
    seeds: int

    def copy(self, to: Path) -> "Swept":
        place = shutil.copytree(self.place, to / "copy")
        return self._replace(place=place, path=place / self.path.relative_to(self.place))

    def run(self, script: str, *arguments: str) -> str:
        """What a command prints that succeeds."""
        if "trainer.devices=2" in arguments:  # whose processes start this script again
            done = train_command(*arguments, cwd=self.place)
            code, said = done.returncode, done.stdout + done.stderr
        else:
            code, said = run_here(script, *arguments, cwd=self.place)
        assert code == 0, said
        assert "Traceback" not in said
        return WAITING.sub("", said)

    def refuse(self, reason: str, script: str, *arguments: str) -> None:
        """A command is refused for this reason, and leaves everything as it was."""
        before = stamp(self.place)
        code, said = run_here(script, *arguments, cwd=self.place)
        assert (code, said.count("Error: ")) == (2, 1), said
        assert reason in said
        assert stamp(self.place) == before

    @property
    def swept(self) -> str:
        return f"{self.key}={','.join(self.values)}"

    def find_runs(self) -> list[Path]:
        return sorted(path.parent for path in self.path.glob("*/result.json"))

    def value_of(self, run: Path) -> str:
        """What was typed of the key that varies."""
        typed = dict(item.split("=", 1) for item in read_result(run)["overrides"])
        return typed[self.key]

    def index_runs(self) -> dict[tuple[str, int], Path]:
        """The runs by what was typed of the key that varies, and their seed."""
        return {(self.value_of(run), read_result(run)["seed"]): run for run in self.find_runs()}


def sweep(kind: str, place: Path) -> Swept:
    bring(place)
    own, key, values = KINDS[kind]
    if kind == "data":  # in one place, of whose name another would be another data set
        values = [str(place / value) for value in values]
    typed = [f"{name}={value}" for name, value in {**PLAIN, **own}.items() if value and name != key]
    typed = [*TINY, *typed, "output_dir=out"]
    if kind == "devices":  # which a sweep does not take
        found = Swept(place, place / "out" / "runs", key, values, typed, seeds=1)
        for value in values:
            found.run("train", *typed, f"{key}={value}")
        return found
    found = Swept(place, place, key, values, typed, seeds=2)
    said = found.run("train", "-m", *typed, found.swept, "seed=0,1")
    if kind == "moved":
        (place / "out").rename(place / "moved")
        typed[-1] = "output_dir=moved"
    (path,) = place.glob("*/sweeps/*")
    assert said.count(" completed ") == 4, said
    return found._replace(path=path)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Swept]:
    """Makes the sweep of a kind, once."""
    return functools.cache(lambda kind: sweep(kind, tmp_path_factory.mktemp(kind)))


def check_table(folder: Path, sweep: Swept) -> None:
    """A report has a row for each setting, with its runs and the means of what they have recorded."""
    text = (folder / "report.md").read_text()
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    (head, _, *rows) = [[cell.strip() for cell in line] for line in lines]
    found = Counter()
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        shown = [re.match(r"[\d.]+", cells[name])[0] for name in ("val accuracy", "test accuracy")]
        found[(cells["runs"], *shown)] += 1
    expected = Counter()
    for value in sweep.values:
        results = [read_result(run) for run in sweep.find_runs() if sweep.value_of(run) == value]
        assert len(results) == sweep.seeds
        val = statistics.fmean(result["best"]["val/accuracy"] for result in results)
        test = statistics.fmean(result["test/accuracy"] for result in results)
        expected[str(sweep.seeds), f"{100 * val:.2f}", f"{100 * test:.2f}"] += 1
    assert found == expected, text


def report(sweep: Swept, to: Path, others: Any) -> None:
    sweep.run("report", str(sweep.path), "--output", str(to / "report"))
    check_table(to / "report", sweep)
    with (to / "report" / "report.csv").open(newline="") as file:
        rows = {row["run"]: float(row["test/accuracy"]) for row in csv.DictReader(file)}
    assert rows == {run.name: read_result(run)["test/accuracy"] for run in sweep.find_runs()}


def measure_again(sweep: Swept, run: Path) -> dict[str, Any]:
    return json.loads(sweep.run("evaluate", str(run), "--json", "--trust"))


def compare(sweep: Swept, to: Path, others: Any) -> None:
    """Of a sweep the best runs of the two best settings are compared, on what they have been measured on."""
    compared = [sweep.path] if sweep.seeds > 1 else sweep.find_runs()
    sheet = str(to / "sheet.png")
    if sweep.key == "data.root":
        sweep.refuse("the test images differ: ", "compare", str(sweep.path), "--output", sheet)
        return
    said = sweep.run("compare", *map(str, compared), "--json", "--trust", "--output", sheet)
    found = json.loads(said)
    runs = [Path(path).parent.parent for path in found["checkpoints"]]
    assert {sweep.value_of(run) for run in runs} == set(sweep.values)
    for run, accuracy in zip(runs, found["accuracy"], strict=True):
        same = [other for other in sweep.find_runs() if sweep.value_of(other) == sweep.value_of(run)]
        best = max(read_result(other)["best"]["val/accuracy"] for other in same)
        assert read_result(run)["best"]["val/accuracy"] == best
        rounding = (
            0.07 if sweep.value_of(run) == "bf16-true" else 1e-6
        )  # two of 30, since it compares in float32
        assert accuracy == pytest.approx(read_result(run)["test/accuracy"], abs=rounding)


def evaluate(sweep: Swept, to: Path, others: Any) -> None:
    for run in sweep.find_runs():
        measured, result = measure_again(sweep, run), read_result(run)
        assert (measured["accuracy"], measured["images"]) == (result["test/accuracy"], 30)
        assert measured["loss"] == pytest.approx(result["test/loss"], abs=1e-6)


def check_same(one: Path, other: Path) -> None:
    """Two runs have learned the same, to the last bit."""
    first, second = measure(one), measure(other)
    assert (first["result"], first["rows"]) == (second["result"], second["rows"])
    assert first["weights"].keys() == second["weights"].keys()
    for name, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][name]), name


def resume(sweep: Swept, to: Path, others: Any) -> None:
    """Trained for longer, a run is what it would have been with as many epochs from the start."""
    there, before = sweep.copy(to), stamp(sweep.place)
    run = there.find_runs()[-1]
    seed, value = read_result(run)["seed"], there.value_of(run)
    devices = ["trainer.devices=2"] if there.key == "trainer.devices" else []
    for other in [item.replace("2", "1") for item in devices]:
        there.refuse("trainer.devices=1 ", "train", f"resume={run}", "trainer.max_epochs=2", other)
    there.run("train", f"resume={run}", "trainer.max_epochs=2", "trust=true", *devices)
    result = read_result(run)
    assert (result["status"], result["epochs"]) == ("completed", 2)
    assert measure_again(there, run)["accuracy"] == result["test/accuracy"]
    typed = [*there.typed[:-1], "output_dir=whole", f"seed={seed}", f"{there.key}={value}"]
    there.run("train", *typed, "trainer.max_epochs=2")
    (whole,) = there.place.glob("whole/runs/*")
    check_same(run, whole)
    assert stamp(sweep.place) == before


def resume_sweep(sweep: Swept, to: Path, others: Callable[[str], Swept]) -> None:
    """What is done stays as it is; what is missing, and what has come to be asked for, is trained."""
    if sweep.key == "trainer.devices":
        other = others("moved")
        other.refuse(
            "trainer.devices=2 ",
            "train",
            "-m",
            *other.typed,
            other.swept,
            "seed=0,1",
            "trainer.devices=2",
            f"sweep.resume={other.path}",
        )
        return
    there, before = sweep.copy(to), stamp(sweep.place)
    missing = there.find_runs()[2]
    shutil.rmtree(missing)
    kept = {run: stamp(run) for run in there.find_runs()}
    there.run("train", "-m", *there.typed, there.swept, "seed=0,1,2", f"sweep.resume={there.path}")
    assert {run: stamp(run) for run in kept} == kept
    check_table(there.path, there._replace(seeds=3))
    whole = there.index_runs()
    for key, run in sweep.index_runs().items():
        check_same(run, whole[key])
    assert stamp(sweep.place) == before


def repeat(sweep: Swept, to: Path, others: Callable[[str], Swept]) -> None:
    """Both settings are trained with other seeds, and each is what it is on its own."""
    if sweep.key == "trainer.devices":
        other = others("moved")
        other.refuse(
            "trainer.devices=2 ",
            "train",
            "-m",
            *other.typed,
            other.swept,
            "seed=0,1",
            "trainer.devices=2",
            f"sweep.repeat={other.path}",
        )
        return
    there, before = sweep.copy(to), stamp(sweep.place)
    kept = stamp(there.path)
    there.run("train", "-m", *there.typed, there.swept, "seed=0,5", f"sweep.repeat={there.path}")
    (path,) = (path for path in there.path.parent.iterdir() if path != there.path)
    assert (stamp(there.path), stamp(sweep.place)) == (kept, before)
    repeated = there._replace(path=path)
    check_table(path, repeated)
    learned = repeated.index_runs()
    assert set(learned) == {(value, seed) for value in there.values for seed in (0, 5)}
    for value in there.values:
        check_same(there.index_runs()[value, 0], learned[value, 0])


COMMANDS = [report, compare, evaluate, resume, resume_sweep, repeat]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_each_command_does_what_is_right_with(
    kind: str, command: Callable[..., None], sweeps: Callable[[str], Swept], tmp_path: Path
) -> None:
    command(sweeps(kind), tmp_path, sweeps)
