"""Where every command starts: `cnn-lab NAME`, and the scripts of a checkout."""

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from cnn_lab import __version__
from cnn_lab.errors import list_known, printable, suggest
from cnn_lab.terminal import waiting

COMMANDS = {
    "train": "train a network; settings are written as KEY=VALUE",
    "sweep": "train a network for every combination of values, and compare them",
    "report": "compare runs: tables, plots, and what can be said about them",
    "evaluate": "evaluate a trained network again on its test images",
    "predict": "tell which class each of your pictures shows",
    "explain": "make a page that shows what a network computes from one digit",
    "compare": "compare two trained networks image by image",
    "export": "write a trained network as an ONNX or PyTorch file",
    "draw": "open a page to draw digits on",
}
USAGE = "usage: cnn-lab COMMAND ...    (cnn-lab COMMAND --help lists what it takes)\n"


def main() -> None:
    """Run the command that is named first, as `cnn-lab`."""
    name, *typed = sys.argv[1:] or [""]
    if name == "--version":
        print(f"cnn-lab {__version__}")
    elif name in ("--help", "-h"):
        print(USAGE, *(f"  {command:10}{text}" for command, text in COMMANDS.items()), sep="\n")
    elif name in COMMANDS:
        is_sweep = name == "sweep"
        sys.argv = [f"cnn-lab {name}", *(["-m"] if is_sweep else []), *typed]
        run("train" if is_sweep else name)
    elif name:
        stop(f"cnn-lab has no command '{printable(name)}'{suggest(name, COMMANDS)}")
    else:
        stop(f"cnn-lab needs a command{list_known(list(COMMANDS))}")


def run(name: str) -> None:
    """Run the command of this name with what was typed, and exit."""
    try:
        Path.cwd()
    except FileNotFoundError:
        stop("the working directory has been deleted; change to another one")
    waiting.start()
    waiting.say("Starting")
    command = import_module(f"cnn_lab.commands.{name}")
    import_module("cnn_lab.terminal.command").run_command(command.main)


def stop(problem: str) -> NoReturn:
    """End with a message about what was typed, before anything is imported that could say more."""
    sys.stderr.write(f"Error: {problem}\n")
    sys.exit(2)
