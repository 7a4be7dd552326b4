"""Write a trained network as one file that predicts without this package, and check it on test images."""

from cnn_lab.commands.export import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
