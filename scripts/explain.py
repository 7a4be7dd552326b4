"""Tell what a trained CNN does with one digit, as one page: from its pixels to the probabilities."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("explain")
