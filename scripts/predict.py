"""Tell which digit is on a photo, scan or drawing, or which class a picture shows, if it was trained so."""

from cnn_lab.commands.door import run

if __name__ == "__main__":
    run("predict")
