"""Measure a trained network again: loss, accuracy, accuracy a class and the confusion matrix."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("evaluate")
