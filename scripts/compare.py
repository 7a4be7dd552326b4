"""Compare two trained networks on the same test images: what only the one and only the other gets right."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("compare")
