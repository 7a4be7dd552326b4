"""Tell which digit is on a photo, scan or drawing, or which class a picture shows, if it was trained so."""

from cnn_lab.commands.predict import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
