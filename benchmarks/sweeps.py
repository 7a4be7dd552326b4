"""Measure what sweeps cost and save: a job, runs side by side, a report over many runs, and pruning.

    python benchmarks/sweeps.py [--output FILE]

Every figure is of the user's own commands, on this machine.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnn_lab.settings.config import PROJECT

REPORT_RUNS = 500
SEARCH = [
    "search=cnn", "hydra/sweeper/sampler=random", "data.train_size=4000", "data.val_size=500", "trainer.max_epochs=8",
    "hydra.sweeper.n_trials=20",
]  # fmt: skip


def run(script: str, *arguments: str) -> float:
    """Wall seconds of one of the project's scripts.

    Raises:
        RuntimeError: when it fails.
    """
    start = time.perf_counter()
    command = [sys.executable, str(PROJECT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def measure_job(folder: Path) -> str:
    """What a job costs besides its training: twelve runs of a batch against two, less the time of that batch."""
    small = [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    base = ["-m", "trainer.max_epochs=1", *small, f"output_dir={folder}"]
    two, twelve = (run("train.py", *base, f"seed={','.join(map(str, range(n)))}") for n in (2, 12))
    last = max(folder.glob("sweeps/*"))
    training = [json.loads(path.read_text())["seconds_per_epoch"] for path in last.glob("*/result.json")]
    cost = (twelve - two) / 10 - statistics.median(training)
    return f"| a job besides its training | {cost:.2f} s |"


def measure_side_by_side(folder: Path) -> str:
    """Eight runs of an epoch, side by side and one after the other."""
    base = ["-m", "trainer.max_epochs=1", "seed=0,1,2,3,4,5,6,7", f"output_dir={folder}"]
    serial = run("train.py", *base)
    parallel = run("train.py", *base, "hydra/launcher=joblib")
    return f"| 8 runs side by side with joblib | {serial / parallel:.2f} times as fast ({parallel:.0f} s against {serial:.0f} s) |"


def measure_report(folder: Path) -> str:
    """The report over many runs, with intervals and curves: copies of one, five seeds of each dropout."""
    run("train.py", "-m", "seed=0,1", "trainer=debug", f"output_dir={folder}")
    (sweep,) = folder.glob("sweeps/*")
    source = next(sweep.glob("0-*"))
    config, result = (source / "config.yaml").read_text(), json.loads((source / "result.json").read_text())
    for number in range(REPORT_RUNS):
        copy = sweep / f"{number + 10}-copy"
        copy.mkdir()
        changed = config.replace("dropout: 0.5", f"dropout: {number // 5 / 1000}")
        (copy / "config.yaml").write_text(changed.replace("\nseed: 0", f"\nseed: {number % 5}"))
        best = {**result["best"], "val/accuracy": 0.9 + 0.02 * math.sin(number)}
        (copy / "result.json").write_text(json.dumps({**result, "best": best, "fingerprint": str(number)}))
        shutil.copy(source / "metrics.csv", copy)
    return f"| report over {REPORT_RUNS} runs | {run('report.py', str(sweep)):.1f} s |"


def measure_pruning(folder: Path) -> str:
    """The share of epochs that a search with pruning trains, and whether both find the same setting."""
    epochs, best = [], []
    for pruner in ("none", "percentile"):
        run("train.py", "-m", *SEARCH, f"hydra/sweeper/pruner={pruner}", f"output_dir={folder / pruner}")
        (report,) = (folder / pruner).glob("sweeps/*/report.csv")
        with report.open() as file:
            rows = list(csv.DictReader(file))
        epochs.append(sum(int(row["epochs"]) for row in rows))
        completed = [row for row in rows if row["status"] == "completed"]
        best.append(max(completed, key=lambda row: float(row["val/accuracy"]))["run"])
    same = "the same best setting" if best[0] == best[1] else f"another best setting: {best}"
    return f"| pruning | {epochs[1] / epochs[0]:.0%} of the epochs ({epochs[1]} of {epochs[0]}), {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    lines = ["| what | measured |", "|---|---|"]
    for measure in (
        lambda: measure_job(folder / "job"),
        lambda: measure_side_by_side(folder / "side"),
        lambda: measure_report(folder / "report"),
        lambda: measure_pruning(folder / "pruning"),
    ):
        lines.append(measure())
        print(lines[-1], file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
