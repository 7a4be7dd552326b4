"""Compare runs: a table, a row a setting with its mean and spread over seeds, and a plot."""

import argparse
from datetime import datetime
from pathlib import Path

from cnn_lab.files import advising
from cnn_lab.runs.directory import STAMP, SWEEP_RECORD
from cnn_lab.settings.places import OUTPUTS
from cnn_lab.sweeps.report import write_report
from cnn_lab.sweeps.results import collect, find_sweep
from cnn_lab.terminal.screen import Screen
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "directories",
        nargs="*",
        type=Path,
        help="sweeps, runs, or folders of them (default: the latest sweep)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for report.csv, .md and .png (default: the sweep's, else a new one in outputs/reports/)",
    )
    arguments = parser.parse_args()
    directories = [path.absolute() for path in arguments.directories] or [find_sweep(None, OUTPUTS)]
    say("Reading the runs")
    records = collect(directories)
    folder = arguments.output
    if folder is None and len(directories) == 1 and (directories[0] / SWEEP_RECORD).is_file():
        folder = directories[0]
    title = ", ".join(path.name for path in directories)
    folder = folder or OUTPUTS / "reports" / f"{datetime.now():{STAMP}}"
    with advising("--output DIR"):
        write_report(records, folder, Screen(), title)
