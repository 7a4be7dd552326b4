"""Train a network, or with -m one for every combination of values. --help lists the settings."""

from cnn_lab.commands.train import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
