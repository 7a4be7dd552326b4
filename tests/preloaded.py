"""Imported once where the tests' commands are forked from: what each of them would read anew."""

from cnn_lab.sources.idx import read_mnist

read_mnist()
