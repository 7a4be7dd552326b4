"""Where every command starts: `cnn-lab NAME`, and the scripts of a checkout."""

import sys
from importlib import import_module

from cnn_lab import __version__
from cnn_lab.errors import printable, suggest
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
    else:
        unknown = f"cnn-lab has no command '{printable(name)}'{suggest(name, COMMANDS)}"
        problem = unknown if name else "cnn-lab needs a command"
        sys.stderr.write(f"Error: {problem} (there are {', '.join(COMMANDS)})\n")
        sys.exit(2)


def run(name: str) -> None:
    """Run the command of this name with what was typed, and exit."""
    waiting.start()
    waiting.say("Starting")
    command = import_module(f"cnn_lab.commands.{name}")
    import_module("cnn_lab.terminal.command").run_command(command.main)
