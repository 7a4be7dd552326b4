"""Measure what is promised of long use: kills, many runs in a process or at once, any override, and checkpoints.

    python benchmarks/robustness.py kills [--count 50]
    python benchmarks/robustness.py soak [--count 200]
    python benchmarks/robustness.py overrides [--count 2000] [--minutes 60] [--seed 0]
    python benchmarks/robustness.py processes [--count 16]
    python benchmarks/robustness.py sweep [--count 300]
    python benchmarks/robustness.py checkpoints
    python benchmarks/robustness.py sequences [--minutes 60] [--seed 0]

Each prints a table, and ends with exit code 1 where a promise is not kept.
"""

import argparse
import collections
import contextlib
import csv
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_lab.settings.config import PROJECT

TRAIN = [sys.executable, str(PROJECT / "scripts" / "train.py")]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TINY = [
    "data.train_size=4000", "data.val_size=500", "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]", "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.max_epochs=1",
]  # fmt: skip
# Some seconds of training, with a checkpoint after nearly every step, so that kills hit the writing too.
KILLED = [
    *TINY, "pictures.enabled=false", "model.dropout=0.3", "model.norm=batch", "scheduler=cosine", "trainer.limit_train_batches=40",
    "trainer.max_epochs=4", "checkpoint_minutes=1e-9", "trainer.log_every_n_steps=5",
]  # fmt: skip
KILLED_AGAIN = 0.4  # the chance that a run which goes on is killed too
WARM_UP, MOST_GROWTH = 20, 1.05  # runs after which memory is to stay what it is, and by how much it may not
MOST_CHECKPOINT_SHARE = 0.02
SEQUENCES_A_SEED = 10  # of which the first that breaks ends the rest


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start scripts/train.py with one thread, in a process group of its own."""
    pipe = subprocess.PIPE
    environment = {**os.environ, **ONE_THREAD}
    command = [*TRAIN, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def run(*arguments: str) -> float:
    """Wall seconds of scripts/train.py.

    Raises:
        RuntimeError: when it fails.
    """
    begin = time.perf_counter()
    process = start(*arguments)
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args)}\n{out}{err}")  # type: ignore[arg-type]
    return time.perf_counter() - begin


def find_runs(output_dir: Path) -> list[Path]:
    """The directories of runs, the latest last."""
    return sorted((output_dir / "runs").glob("*"))


def read_result(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "result.json").read_text())


# --- kills


def measure_kills(arguments: argparse.Namespace, folder: Path) -> bool:
    """Runs that are killed at a random moment, some of them several times, end as the one that was not."""
    dice = random.Random(arguments.seed)  # noqa: S311
    run(*KILLED, f"output_dir={folder / 'whole'}")
    (whole,) = find_runs(folder / "whole")
    seconds = read_result(whole)["seconds"]
    kills: collections.Counter[str] = collections.Counter()
    equal = 0
    for number in range(arguments.count):
        output_dir = folder / str(number)
        run_dir = _train_with_kills(output_dir, seconds, dice, kills)
        difference = compare_runs(whole, run_dir)
        equal += not difference
        print(f"{number + 1}: {difference or 'equal'}", file=sys.stderr, flush=True)
        shutil.rmtree(output_dir)
    print(
        "| kills | runs killed | kills in all | before a checkpoint | bitwise equal at the end |\n|---|---|---|---|---|"
    )
    print(
        f"| at random moments | {arguments.count} | {kills.total()} | {kills['early']} | {equal} of {arguments.count} |"
    )
    return equal == arguments.count


def _train_with_kills(
    output_dir: Path, seconds: float, dice: random.Random, kills: collections.Counter
) -> Path:
    """Train to the end, killed once or more often on the way; returns the directory of the run."""
    goes_on = False
    is_to_die = True
    while True:
        words = ["resume=latest"] if goes_on else KILLED
        process = start(*words, f"output_dir={output_dir}")
        if is_to_die:
            before = len(find_runs(output_dir)) if not goes_on else 0
            _kill_at_random(process, output_dir, before, seconds, dice)
        _, err = process.communicate()
        if process.returncode == 0:
            return find_runs(output_dir)[-1]
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(err)
        runs = find_runs(output_dir)
        if runs and (runs[-1] / "result.json").is_file() and read_result(runs[-1])["status"] == "completed":
            return runs[-1]  # killed when it had just ended
        goes_on = bool(runs) and (runs[-1] / "checkpoints" / "last.ckpt").is_file()
        kills["late" if goes_on else "early"] += 1
        if goes_on and read_result(runs[-1])["status"] == "completed":  # killed as it was leaving
            return runs[-1]
        is_to_die = dice.random() < KILLED_AGAIN


def _kill_at_random(
    process: subprocess.Popen[str], output_dir: Path, before: int, seconds: float, dice: random.Random
) -> None:
    """Kill the process group some time after the run has its directory; the start is mostly imports."""
    while len(find_runs(output_dir)) <= before and process.poll() is None:
        time.sleep(0.01)
    pause = dice.uniform(0, seconds)
    try:
        process.wait(pause)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def compare_runs(one: Path, other: Path) -> str:
    """What differs between two runs: the weights of their checkpoints, bit by bit, and what they measured."""
    import torch

    for name in ("best", "last"):
        weights, expected = (
            torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for path in (other, one)
        )
        if weights.keys() != expected.keys() or not all(
            torch.equal(weights[key], expected[key]) for key in expected
        ):
            return f"the weights of {name}.ckpt"
    if _read_numbers(one) != _read_numbers(other):
        return "metrics.csv"
    results = [read_result(path) for path in (one, other)]
    differing = [
        key
        for key in ("best", "epochs", "steps", "test/loss", "status")
        if results[0][key] != results[1][key]
    ]
    return f"result.json: {', '.join(differing)}" if differing else ""


def _read_numbers(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


# --- many runs in one process


def measure_soak(arguments: argparse.Namespace, folder: Path) -> bool:
    """Memory and open files of a process after each of many runs."""
    from hydra import compose, initialize_config_dir

    from cnn_lab.settings.config import check_config
    from cnn_lab.terminal.logs import hold_logs
    from cnn_lab.training import train

    hold_logs()
    curve: list[tuple[float, int]] = []
    print("| runs in one process | memory, MB | open files | threads |\n|---|---|---|---|")
    for number in range(1, arguments.count + 1):
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            settings = check_config(compose("train", [*TINY, f"seed={number}", f"output_dir={folder}"]))
        run_dir = folder / str(number)
        run_dir.mkdir()
        train(settings, run_dir, quiet=True)
        shutil.rmtree(run_dir)
        curve.append((read_memory(), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
        if number == 1 or number % WARM_UP == 0:
            threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
            print(f"| {number} | {curve[-1][0]:.0f} | {curve[-1][1]} | {threads} |", flush=True)
    return _report_growth(curve)


def _report_growth(curve: list[tuple[float, int]]) -> bool:
    if len(curve) <= WARM_UP:
        return True
    growth = curve[-1][0] / curve[WARM_UP - 1][0]
    files = curve[-1][1] - curve[WARM_UP - 1][1]
    print(
        f"\nMemory after {len(curve)} runs against after {WARM_UP}: {growth - 1:+.1%}; open files: {files:+d}"
    )
    return growth <= MOST_GROWTH and files <= 0


def read_memory(process: int | str = "self") -> float:
    """Megabytes of memory that a process has in use."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- any override


def measure_overrides(arguments: argparse.Namespace, folder: Path) -> bool:
    """Random overrides: each ends in a run or in one message."""
    sys.path.append(str(PROJECT / "tests"))
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from overrides import belongings, find_problem, leftovers, lists_of_overrides, run_with

    endings: collections.Counter[Any] = collections.Counter()
    tried: set[tuple[str, ...]] = set()
    problems: list[str] = []
    end = time.monotonic() + 60 * arguments.minutes

    @seed(arguments.seed)
    @settings(
        max_examples=10 * arguments.count,  # it likes to come back to what it knows
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(lists_of_overrides() | belongings(), leftovers())
    def try_them(typed: list[str], variables: dict[str, str]) -> None:
        if len(tried) == arguments.count or time.monotonic() > end:
            raise KeyboardInterrupt
        if tuple(typed) in tried:
            return
        tried.add(tuple(typed))
        ending = run_with(typed, variables)
        endings[ending.code] += 1
        problem = find_problem(ending)
        if problem:
            problems.append(problem)
            print(f"{problem}: {variables} {typed}\n{ending.err[-2000:]}", file=sys.stderr, flush=True)
        if len(tried) % 100 == 0:
            print(f"{len(tried)} commands, {dict(endings)}", file=sys.stderr, flush=True)

    with contextlib.suppress(KeyboardInterrupt):  # what was tried until then counts
        try_them()
    print(
        "| commands | overrides | runs (exit code 0) | refused (2) | failed (1) | against the promise |\n|---|---|---|---|---|---|"
    )
    total = sum(map(len, tried))
    print(f"| {len(tried)} | {total} | {endings[0]} | {endings[2]} | {endings[1]} | {len(problems)} |")
    return not problems


# --- many at once, and one after the other


def measure_processes(arguments: argparse.Namespace, folder: Path) -> bool:
    """Runs in as many processes at once, into one folder."""
    begin = time.perf_counter()
    processes = [start(*TINY, "label=same", f"output_dir={folder}") for _ in range(arguments.count)]
    errors = [process.communicate()[1] for process in processes]
    seconds = time.perf_counter() - begin
    completed = sum(read_result(path)["status"] == "completed" for path in find_runs(folder))
    print("| processes at once | completed | directories | seconds |\n|---|---|---|---|")
    print(f"| {arguments.count} | {completed} | {len(find_runs(folder))} | {seconds:.0f} |")
    for error in filter(None, errors):
        print(error, file=sys.stderr)
    return completed == len(find_runs(folder)) == arguments.count and not any(errors)


def measure_sweep(arguments: argparse.Namespace, folder: Path) -> bool:
    """A sweep of many jobs in one process, its memory and open files on the way."""
    words = [*TINY, "pictures.enabled=false", f"seed=range({arguments.count})", f"output_dir={folder}"]
    begin = time.perf_counter()
    process = start("-m", *words)
    curve, starts = _watch_sweep(process, folder, arguments.count)
    _, err = process.communicate()
    seconds = time.perf_counter() - begin
    (sweep,) = folder.glob("sweeps/*")
    completed = sum(read_result(path.parent)["status"] == "completed" for path in sweep.glob("*/result.json"))
    print("| jobs | completed | report | seconds a job | seconds in all |\n|---|---|---|---|---|")
    has_report = (sweep / "report.csv").is_file()
    each = statistics.median(later - sooner for sooner, later in itertools.pairwise(starts))
    print(
        f"| {arguments.count} | {completed} | {'written' if has_report else 'missing'} | {each:.2f} | {seconds:.0f} |\n"
    )
    print("| jobs done | memory, MB | open files |\n|---|---|---|")
    for number in range(WARM_UP, len(curve) + 1, max(WARM_UP, arguments.count // 10)):
        print(f"| {number} | {curve[number - 1][0]:.0f} | {curve[number - 1][1]} |")
    flat = _report_growth(curve)
    print(err, file=sys.stderr)
    return flat and has_report and completed == arguments.count


def _watch_sweep(
    process: subprocess.Popen[str], folder: Path, count: int
) -> tuple[list[tuple[float, int]], list[float]]:
    """Memory and open files of a sweep's process when each of its jobs starts, and the times of that."""
    curve: list[tuple[float, int]] = []
    starts: list[float] = []
    while process.poll() is None and len(curve) < count:
        if len(list(folder.glob("sweeps/*/*/result.json"))) > len(curve):
            files = len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208
            curve.append((read_memory(process.pid), files))
            starts.append(time.perf_counter())
        time.sleep(0.02)
    return curve, starts


# --- what checkpoints cost


def measure_checkpoints(arguments: argparse.Namespace, folder: Path) -> bool:
    """The share of a default run's time that its checkpoints take."""
    from hydra import compose, initialize_config_dir

    import cnn_lab.runs.checkpoints as checkpoints
    from cnn_lab.settings.config import check_config
    from cnn_lab.training import train

    spent: list[float] = []
    for hook in ("on_train_epoch_end", "on_train_batch_end"):
        setattr(checkpoints.Checkpoints, hook, _timed(getattr(checkpoints.Checkpoints, hook), spent))
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        settings = check_config(compose("train", [f"output_dir={folder}"]))
    run_dir = folder / "run"
    run_dir.mkdir()
    done = train(settings, run_dir, quiet=True)
    seconds = done.result["seconds"]
    share = sum(spent) / seconds
    print("| data | seconds of the run | in checkpoints | share |\n|---|---|---|---|")
    print(f"| {done.result['dataset']['name']} | {seconds:.1f} | {sum(spent):.2f} | {share:.2%} |")
    return share <= MOST_CHECKPOINT_SHARE


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent.append(time.perf_counter() - begin)

    return call


# --- any sequence of commands


def measure_sequences(arguments: argparse.Namespace, folder: Path) -> bool:
    """Random sequences of commands: each leaves true records, and the weights of runs that nothing stopped."""
    sys.path.append(str(PROJECT / "tests"))
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    from sequences import Sequences, train_whole

    class Counted(Sequences):
        """Counts what it does."""

        sequences = commands = 0

        def teardown(self) -> None:
            Counted.sequences += 1
            super().teardown()

        def command(self, *typed: str, **options: Any) -> int:
            Counted.commands += 1
            return super().command(*typed, **options)

    tempfile.tempdir = str(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells turn off in the background
    shape = settings(
        max_examples=SEQUENCES_A_SEED, stateful_step_count=10, phases=[Phase.generate], database=None,
        deadline=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    end, broken, number = time.monotonic() + 60 * arguments.minutes, 0, arguments.seed
    while time.monotonic() < end:
        try:
            run_state_machine_as_test(seed(number)(Counted), settings=shape)
        except Exception:
            broken += 1
            traceback.print_exc()
        number += 1
        counts = (
            f"{number - arguments.seed} seeds, {Counted.sequences} sequences, {Counted.commands} commands"
        )
        print(f"{counts}, {broken} broken", file=sys.stderr, flush=True)
        train_whole.cache_clear()
    print("| sequences | commands | seeds with a broken sequence |\n|---|---|---|")
    print(f"| {Counted.sequences} | {Counted.commands} | {broken} |")
    return not broken


MEASURES: dict[str, tuple[Callable[[argparse.Namespace, Path], bool], int]] = {
    "kills": (measure_kills, 50),
    "soak": (measure_soak, 200),
    "overrides": (measure_overrides, 2000),
    "processes": (measure_processes, 16),
    "sweep": (measure_sweep, 300),
    "checkpoints": (measure_checkpoints, 1),
    "sequences": (measure_sequences, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--count", type=int, help="how many")
    parser.add_argument(
        "--minutes", type=float, default=60, help="of looking for overrides, or a sequence, that break"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    arguments = parser.parse_args()
    measure, count = MEASURES[arguments.what]
    arguments.count = arguments.count or count
    folder = Path(tempfile.mkdtemp())
    try:
        kept = measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
