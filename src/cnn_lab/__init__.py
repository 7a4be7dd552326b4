"""Small convolutional networks on MNIST: PyTorch Lightning for the loop, Hydra for the settings.

Importing this package, and its modules `config`, `shapes`, `runs` and `mnist`, does not import torch.
"""

__version__ = "0.1.0"
