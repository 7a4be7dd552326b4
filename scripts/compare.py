"""Compare two trained networks on the same test images: what only the one and only the other gets right."""

from cnn_lab.commands.compare import main
from cnn_lab.terminal.command import run_command

if __name__ == "__main__":
    run_command(main)
