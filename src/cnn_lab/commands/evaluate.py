"""Measure a trained network again: loss, accuracy, accuracy a class and the confusion matrix."""

import argparse
from typing import Any

from rich.table import Table

from cnn_lab.runs.directory import find_run
from cnn_lab.terminal.command import add_run, show_json
from cnn_lab.terminal.waiting import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run(parser)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="default: test")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    arguments = parser.parse_args()
    run_dir, checkpoint = find_run(arguments.run)

    say("Loading PyTorch")
    from cnn_lab.terminal.screen import Screen, shorten
    from cnn_lab.use.evaluation import evaluate

    say("Evaluating")
    measured = evaluate(checkpoint, arguments.split, arguments.trust)
    result = {"run": str(run_dir), "checkpoint": str(checkpoint), **measured}
    if arguments.json:
        show_json(result)
        return
    screen = Screen()
    screen.show(f"{shorten(checkpoint)}, after epoch {result['epoch']}")
    part = f" of {result['available']:,}" if result["images"] < result["available"] else ""
    screen.show(f"{result['images']:,}{part} {arguments.split} images of {result['dataset']}\n")
    more = "".join(f"   {name} {value:#.4g}" for name, value in result["metrics"].items())
    screen.show(f"accuracy {result['accuracy']:.2%}   loss {result['loss']:.4f}{more}\n", style="bold")
    screen.show(format_confusion(result))


def format_confusion(result: dict[str, Any]) -> Table:
    """A row for each true class: its accuracy, then how often each class was the answer."""
    from cnn_lab.pictures.sheets import number_classes

    names, heads = number_classes(result["classes"])
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("true", justify="left" if names != heads else "right", style="bold", no_wrap=True)
    table.add_column("accuracy", justify="right")
    for head in heads:
        table.add_column(f"as {head}", justify="right", no_wrap=True)
    for name, accuracy, row in zip(names, result["class_accuracy"], result["confusion"], strict=True):
        share = "" if accuracy is None else f"{accuracy:.2%}"
        table.add_row(name, share, *(str(count) if count else "." for count in row))
    return table
