"""Open a page to draw a digit on, and see what a trained network makes of it as you draw."""

from cnn_lab.commands.draw import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
