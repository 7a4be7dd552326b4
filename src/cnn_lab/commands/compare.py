"""Compare two trained networks on the same test images: what only the one and only the other gets right."""

import argparse
from datetime import datetime
from pathlib import Path

from cnn_lab.errors import ConfigError
from cnn_lab.files import advising
from cnn_lab.runs.directory import STAMP, find_run
from cnn_lab.settings.places import OUTPUTS
from cnn_lab.sweeps.results import collect, compare, find_sweep
from cnn_lab.terminal.command import add_trust, show_json
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="two runs, checkpoints or sweeps, which stand for their best run; or one sweep, for the best "
        "runs of its two best settings, all by validation images (default: the latest sweep)",
    )
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the sheet of images (default: in outputs/comparisons/)"
    )
    add_trust(parser)
    arguments = parser.parse_args()
    runs = (
        arguments.runs
        if len(arguments.runs) > 1
        else choose_runs(find_sweep(*arguments.runs or [None], OUTPUTS))
    )
    if len(runs) != 2:
        raise ConfigError(
            f"two networks are compared at a time, and there are {len(runs)}; give two runs or a sweep"
        )
    checkpoints = [find_run(run)[1] for run in runs]

    say("Loading PyTorch")
    from cnn_lab.terminal.screen import Screen, shorten
    from cnn_lab.use import comparison

    say("Comparing")
    found = comparison.compare(*checkpoints, arguments.trust)
    sheet = arguments.output or OUTPUTS / "comparisons" / f"{datetime.now():{STAMP}}.png"
    with advising("--output FILE.png"):
        differing = found.draw(sheet)
    numbers = found.as_dict()
    if arguments.json:
        show_json({"checkpoints": list(map(str, checkpoints)), **numbers, "sheet": str(sheet)})
        return
    screen = Screen()
    for name, checkpoint, accuracy in zip("AB", checkpoints, numbers["accuracy"], strict=True):
        screen.show(f"{name}  accuracy {accuracy:.2%}  {shorten(checkpoint)}", style="bold")
    screen.show(f"all {numbers['images']:,} test images of {numbers['dataset']}, in float32\n")
    for line in found.describe():
        screen.show(line)
    screen.show(f"\nImages on which they differ ({differing:,}): {shorten(sheet)}")


def choose_runs(sweep: Path) -> list[Path]:
    """The best run on validation images of each of a sweep's two best settings.

    Raises:
        ConfigError: when fewer of its settings have such a run.
    """
    _, settings = compare(collect([sweep]))
    best = [run.path for setting in settings if (run := setting.find_best_run())]
    if len(best) < 2:
        raise ConfigError(
            f"{sweep} does not say which two runs to compare: {len(best)} of its settings have a completed "
            "run with a result on validation images. Name two runs"
        )
    return best[:2]
