"""Write a trained network as one file that predicts without this package, and check it on test images."""

import argparse
from pathlib import Path

from cnn_lab.files import advising
from cnn_lab.runs.directory import find_run
from cnn_lab.terminal.command import add_run
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run(parser)
    parser.add_argument(
        "--format",
        choices=("onnx", "torch"),
        default="onnx",
        help="onnx for ONNX Runtime and others, torch for torch.export.load (default: onnx)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="an existing file is replaced (default: model.onnx or model.pt2 in the run's folder)",
    )
    arguments = parser.parse_args()
    run_dir, checkpoint = find_run(arguments.run)

    say("Loading PyTorch")
    from cnn_lab.terminal.screen import Screen, shorten
    from cnn_lab.use.export import describe_input, export

    say("Exporting and checking the network")
    with advising("--output FILE"):
        exported = export(run_dir, checkpoint, arguments.format, arguments.output, arguments.trust)
    screen = Screen()
    trained = exported.trained
    screen.show(f"{shorten(checkpoint)}, after epoch {trained.epoch}")
    screen.show(f"{exported.describe_check()}\n")
    screen.show(f"{shorten(exported.path)}, {exported.path.stat().st_size / 1e6:.1f} MB\n", style="bold")
    screen.show(f"To use it without this package, with images in NumPy, {describe_input(trained)}:\n")
    screen.show(exported.describe_use())
