"""What TensorBoard shows of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from cnn_lab.settings.config import MEASURED
from cnn_lab.settings.groups import show
from cnn_lab.shapes import Layer
from cnn_lab.terminal.screen import format_layers

TEXTS = ("channels", "kernel_sizes", "pool", "activation", "norm", "head", "hidden")  # of a network


def make_charts(quantities: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """One chart with a line for each split, against the optimizer step and against the epoch."""
    return {
        heading: {
            quantity: ["Multiline", [f"{prefix}{split}/{quantity}$" for split in ("train", "val", "test")]]
            for quantity in quantities
        }
        for heading, prefix in (("By epoch", "^by_epoch/"), ("By step", "^"))
    } | {"By class": {"accuracy": ["Multiline", ["^class_accuracy/"]]}}


class EventLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing into the run's directory itself.

    Besides what the LightningModule logs: loss and accuracy by epoch, charts that compare splits, the config,
    the layer table, and for HPARAMS the settings with the run's final metrics.
    """

    def __init__(self, run_dir: Any, first_step: int | None = None) -> None:
        """With `first_step`, TensorBoard drops what an interrupted run wrote from that step on."""
        super().__init__(
            save_dir=run_dir, name="", version="", default_hp_metric=False, purge_step=first_step
        )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write scalars; without Lightning's own `epoch`, whose chart says nothing."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def finalize(self, status: str) -> None:
        """Write out what is buffered; the file stays open from fit to test, so that there is one."""
        self.save()

    def save(self) -> None:
        """Write out what is buffered; no hparams.yaml, since config.yaml holds the settings."""
        self.experiment.flush()

    def log_start(self, config: Mapping[str, Any], layers: Sequence[Layer]) -> None:
        """Write what is known before training: the config and the network's layers."""
        writer = self.experiment
        writer.add_custom_scalars(make_charts([*MEASURED, *config["metrics"]]))
        writer.add_text("config", _as_code(config))
        writer.add_text("layers", _as_markdown(format_layers(layers)))

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Write a row of metrics.csv: what Lightning has not written, and the metrics by epoch."""
        writer = self.experiment  # of several processes, only the first one's writes anything
        for name in ("lr", "seconds"):
            writer.add_scalar(name, row[name], row["step"])
        for name, value in row.items():
            if "/" in name and value is not None:
                writer.add_scalar(f"by_epoch/{name}", value, row["epoch"])
        self.save()

    def log_result(
        self, settings: Mapping[str, Any], metrics: Mapping[str, float], overrides: Sequence[str]
    ) -> None:
        """Write the run's row of HPARAMS: the same columns for every run.

        TensorBoard puts the settings first that are said to differ, and shows five: those that `overrides`,
        which were typed, name.
        """
        writer = self.experiment
        columns, *row = hparams(dict(settings), {f"final/{name}": value for name, value in metrics.items()})
        typed = {override.partition("=")[0].rpartition(".")[2] for override in overrides}
        plugin = columns.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        for setting in content.experiment.hparam_infos:
            setting.differs = setting.name in typed
        plugin.content = content.SerializeToString()
        for summary in (columns, *row):
            writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            writer.add_scalar(f"final/{name}", value, 0)
        self.save()


def flatten_settings(config: Mapping[str, Any], parameters: int, train_size: int) -> dict[str, Any]:
    """What HPARAMS compares runs by: plain numbers and strings, the same columns for every run.

    HPARAMS takes its columns from one run and leaves out the runs that miss one. A list is a text.

    Args:
        train_size: how many images the run trains on.
    """
    data, model, optimizer = config["data"], config["model"], config["optimizer"]
    settings = {
        "parameters": parameters,
        "train_size": train_size,
        "seed": config["seed"],
        "data": data.get("name", ""),
        "model": _name_target(model),
        "optimizer": _name_target(optimizer),
        "scheduler": _name_target(config["scheduler"]),
        **{name: optimizer.get(name, 0.0) for name in ("lr", "weight_decay", "momentum")},
        "batch_size": data.get("batch_size", 0),
        "max_epochs": config["trainer"].get("max_epochs", 0),
        "dropout": model.get("dropout", 0.0),
        **{name: show(model.get(name, "")) for name in TEXTS},
    }
    plain = (int, float, str)  # another may be the config of a target
    return {name: value if isinstance(value, plain) else show(value) for name, value in settings.items()}


def _name_target(node: Mapping[str, Any]) -> str:
    return node["_target_"].rpartition(".")[2]


def _as_markdown(table: Table) -> str:
    heads = [str(column.header) for column in table.columns]
    marks = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, marks, *rows))


def _as_code(config: Mapping[str, Any]) -> str:
    lines = yaml.safe_dump(dict(config), sort_keys=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)  # an indented block is code in Markdown
