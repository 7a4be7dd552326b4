"""Tell what a trained CNN does with one digit, as one page: from its pixels to the probabilities."""

import argparse
from pathlib import Path

from cnn_lab.files import advising
from cnn_lab.runs.directory import find_run
from cnn_lab.terminal.command import add_run
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run(parser)
    digit = parser.add_mutually_exclusive_group()
    digit.add_argument("--image", type=Path, metavar="FILE", help="your own picture, for example of a digit")
    digit.add_argument(
        "--index", type=int, metavar="N", help="the Nth test image of the run's data, from 0 (default: 0)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write the page (default: in the run's folder)"
    )
    arguments = parser.parse_args()
    run_dir, checkpoint = find_run(arguments.run)

    say("Loading PyTorch")
    from cnn_lab.explain.explain import explain
    from cnn_lab.runs.trained import load_trained
    from cnn_lab.terminal.screen import Screen, shorten

    say("Computing and drawing the page")
    folder = arguments.output or run_dir
    trained = load_trained(checkpoint, arguments.trust)
    with advising("--output DIR"):
        page, story = explain(trained, run_dir, folder, arguments.image, arguments.index)
    screen = Screen()
    probability = story.probabilities[story.guess]
    screen.show(f"{story.example.source}: {story.answer} ({probability:.2%}){story.truth}")
    screen.show(f"Page: {shorten(page)}")
