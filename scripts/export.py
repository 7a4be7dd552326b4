"""Write a trained network as one file that predicts without this package, and check it on test images."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("export")
