"""Small convolutional networks on small images: PyTorch Lightning for the loop, Hydra for the settings.

On top lie the modules of the lesson, below them rooms with the machinery; README tells which is which.
"""

__version__ = "0.2.0"
