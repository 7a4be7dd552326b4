"""Open a page to draw a digit on, and see what a trained network makes of it as you draw."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("draw")
