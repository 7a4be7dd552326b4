"""Tell what a trained CNN does with one digit, as one page: from its pixels to the probabilities."""

from cnn_lab.commands.explain import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
