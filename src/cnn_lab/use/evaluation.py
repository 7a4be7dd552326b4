"""Measure a trained run again, from its directory or a checkpoint alone."""

from pathlib import Path
from typing import Any

from cnn_lab.errors import ConfigError
from cnn_lab.runs.trained import load_trained
from cnn_lab.trainer import make_trainer

# However many devices the run was trained on.
ONE_PROCESS = {"devices": 1, "strategy": "auto", "sync_batchnorm": False, "profiler": None}


def evaluate(path: Path, split: str = "test", trust: bool = False) -> dict[str, Any]:
    """Measure a checkpoint's network on the "test" or "val" images of its run; `trust` as in `load_trained`.

    Returns:
        `loss`, `accuracy` and your own `metrics`, as training measured them; `images`, how many were measured
        of how many `available`; `dataset`, `split`, `epoch`; the names of the `classes`; `class_accuracy`,
        one per class, None for a class without images; `confusion`, a row for each true class with its counts
        by prediction.

    Raises:
        ConfigError: when the file is no checkpoint of this project, names targets that it may not, or the run
            has no such images.
        DataError: when the run's images cannot be had here.
    """
    trained = load_trained(path, trust)
    data, classifier = trained.data, trained.classifier
    data.test_each_epoch = False
    classifier.watched = "val"
    trained.load_data()
    if not data.sizes[split]:
        raise ConfigError(f"there are no {split} images: this run was trained with data.val_size=0")
    settings = {**trained.config["trainer"], **ONE_PROCESS}
    limit = f"limit_{split}_batches"
    settings[limit] = settings.get(limit) or None  # with 0 training measured none; here, all are
    if settings.get("accelerator") != "cpu":
        settings["accelerator"] = "auto"  # the run's device, or what there is here
    # In its root directory Lightning looks for checkpoints of its own; in a file there are none.
    trainer = make_trainer(settings, logger=False, enable_checkpointing=False, default_root_dir=path)
    measure = trainer.test if split == "test" else trainer.validate
    measure(classifier, datamodule=data, verbose=False)
    measured = classifier.eval_metrics.read(split)
    confusion: Any = classifier.answers
    right, totals = confusion.diag().tolist(), confusion.sum(dim=1).tolist()
    return {
        "split": split,
        "dataset": data.name,
        "images": sum(totals),
        "available": data.sizes[split],
        "epoch": trained.epoch,
        "loss": measured[f"{split}/loss"],
        "accuracy": measured[f"{split}/accuracy"],
        "metrics": {name: measured[f"{split}/{name}"] for name in trained.config["metrics"]},
        "classes": trained.classes,
        "class_accuracy": [
            count / total if total else None for count, total in zip(right, totals, strict=True)
        ],
        "confusion": confusion.tolist(),
    }
