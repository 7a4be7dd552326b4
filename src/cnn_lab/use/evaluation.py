"""Measure a trained run again, from its directory or a checkpoint alone."""

from pathlib import Path
from typing import Any

from cnn_lab.errors import ConfigError
from cnn_lab.runs.trained import load_trained
from cnn_lab.trainer import choose_hardware, make_trainer


def evaluate(path: Path, split: str = "test") -> dict[str, Any]:
    """Measure a checkpoint's network on the "test" or "val" images of its run.

    Returns:
        `loss` and `accuracy`, as training measured them; `images`, `dataset`, `split`, `epoch`;
        `class_accuracy`, one a class; `confusion`, a row for each true class with its counts by guess.

    Raises:
        ConfigError: when the file is no checkpoint of this project, names targets that it may not, or the run
            has no such images.
        DataError: when the run's images cannot be had here.
    """
    trained = load_trained(path)
    data, classifier = trained.data, trained.classifier
    settings = trained.config["trainer"]
    if settings.get("accelerator") != "cpu":
        settings = {**settings, "accelerator": "auto"}  # the run's device, or what there is here
    data.test_each_epoch = False
    classifier.watched = "val"
    trained.load_data()  # not of the sample, unless it is the run's: that would say nothing of it
    if not data.sizes[split]:
        raise ConfigError(f"there are no {split} images: this run was trained with data.val_size=0")
    trainer = make_trainer(
        {**choose_hardware(settings), "devices": 1, "strategy": "auto", "num_nodes": 1, "profiler": None},
        logger=False,
        enable_checkpointing=False,
    )
    measure = trainer.test if split == "test" else trainer.validate
    measure(classifier, datamodule=data, verbose=False)
    measured = classifier.eval_metrics.read(split)
    confusion = classifier.confusion.compute()
    return {
        "split": split,
        "dataset": data.name,
        "images": int(confusion.sum()),
        "epoch": trained.epoch,
        "loss": measured[f"{split}/loss"],
        "accuracy": measured[f"{split}/accuracy"],
        "class_accuracy": (confusion.diag() / confusion.sum(dim=1)).tolist(),
        "confusion": confusion.tolist(),
    }
