"""Measure a trained network again: loss, accuracy, accuracy a class and the confusion matrix."""

from cnn_lab.commands.evaluate import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
