"""Compare runs: a table, a row a setting with its mean and spread over seeds, and a plot."""

from cnn_lab.commands.report import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
