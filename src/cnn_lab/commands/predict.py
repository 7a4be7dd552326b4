"""Tell which digit is on a photo, scan or drawing, or which class a picture shows, if it was trained so."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from cnn_lab.files import advising
from cnn_lab.runs.directory import find_run
from cnn_lab.terminal.command import add_run, show_json
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or - for standard input")
    add_run(parser, "--run")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    parser.add_argument(
        "--show",
        type=Path,
        metavar="FILE",
        help="draw the input, what the network received, and its prediction",
    )
    arguments = parser.parse_args()
    run_dir, checkpoint = find_run(arguments.run)

    say("Loading PyTorch")
    from cnn_lab.runs.trained import load_trained
    from cnn_lab.terminal.screen import Screen, shorten
    from cnn_lab.use.prediction import SHOWN, draw_predictions, learn_likeness, predict, read_pictures

    say("Predicting")
    trained = load_trained(checkpoint, arguments.trust)
    digits = read_pictures(arguments.images, trained)
    predictions = predict(trained, digits, learn_likeness(trained))
    if arguments.show:
        with advising("--show FILE.png"):
            draw_predictions(predictions, arguments.show)
    if arguments.json:
        rows = [prediction.as_dict() for prediction in predictions]
        show_json({"run": str(run_dir), "checkpoint": str(checkpoint), "images": rows})
        return
    screen = Screen()
    screen.show(f"{shorten(checkpoint)}, trained on {trained.data.name}\n")
    for line in format_predictions(predictions):
        screen.show(line)
    if arguments.show:
        cut = f" (the first {SHOWN} images)" if len(predictions) > SHOWN else ""
        screen.show(f"\nPicture: {shorten(arguments.show)}{cut}")


def format_predictions(predictions: list) -> Iterator[str]:
    """One line per image: the prediction, its probability, the runner-up."""
    width = max(5, *(len(row.digit.name) for row in predictions))
    long = max(len(name) for row in predictions for name in ("prediction", *row.shares))
    yield f"{'image':{width}}  {'prediction':>{long}}  probability  runner-up"
    for row in predictions:
        if row.problem:
            yield f"{row.digit.name:{width}}  {'unsure':>{long}}  {'':11}  {row.problem}"
        else:
            (_, share), (second, rest) = row.ranking[:2]
            guess = row.guess or "unsure"
            yield f"{row.digit.name:{width}}  {guess:>{long}}  {share:11.2%}  {second} ({rest:.2%})"
