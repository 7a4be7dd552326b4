"""Train a network, or with -m one for every combination of values. --help lists the settings."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("train")
