"""Compare runs: a table, a row a setting with its mean and spread over seeds, and a plot."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("report")
