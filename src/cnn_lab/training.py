"""One training run, from checked settings to a directory that explains itself."""

import contextlib
import logging
import platform
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cnn_lab import __version__
from cnn_lab.classifier import ImageClassifier
from cnn_lab.config import PROJECT
from cnn_lab.display import Display
from cnn_lab.errors import CnnLabError, ConfigError, RunPruned
from cnn_lab.events import EventLogger, flatten_settings
from cnn_lab.figures import draw_curves
from cnn_lab.logs import claim_lightning_logs, write_logs
from cnn_lab.pictures import Pictures
from cnn_lab.recorder import Recorder
from cnn_lab.runs import LAST_CHECKPOINT, Run, fingerprint, hold
from cnn_lab.screen import Screen, format_layers, format_result, shorten
from cnn_lab.trainer import choose_hardware, describe_device, make_trainer, tune_cpu

log = logging.getLogger(__name__)

EXIT_SIGINT, EXIT_SIGTERM = 130, 143  # 128 and the signal's number, as shells have it


def train(
    config: Mapping[str, Any],
    run_dir: Path,
    label: str = "default",
    overrides: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Run:
    """Train, test the best checkpoint, and leave everything in `run_dir`.

    Args:
        config: what `cnn_lab.config.check_config` returned.
        run_dir: an empty directory, or one of an interrupted run of the same config, which then goes on
            after its last finished epoch.
        label: names the run in pictures and tables.
        overrides: what was typed, for the record.
        callbacks: called besides the run's own.
        quiet: print nothing; the log has it all.

    Raises:
        ConfigError: for settings that only the built objects can refuse; then nothing was written.
        CnnLabError: when the run failed; `run_dir` says why.
        RunPruned: when one of `callbacks` ended it.
    """
    claim_lightning_logs()
    tune_cpu()
    name = fingerprint(config)
    config = {**config, "trainer": choose_hardware(config["trainer"])}
    seed_everything(config["seed"], workers=True, verbose=False)
    data, classifier = build(config)
    _try_settings(config, classifier)

    run = Run(run_dir, label=label, overrides=list(overrides), seed=config["seed"], fingerprint=name)
    screen = Screen(quiet=quiet or not run.writes)
    with _recording(run, config, screen):
        _load_data(data, config, run, screen)
        checkpoint = run_dir / LAST_CHECKPOINT if (run_dir / LAST_CHECKPOINT).is_file() else None
        if not checkpoint:
            run.keep_epochs(0)
        events = EventLogger(run_dir, first_step=_find_step(checkpoint))
        best, stopping = _make_checkpoint(config, data, run_dir), _make_early_stopping(config)
        pictures = _make_pictures(config, events) if run.writes else []
        own = [Recorder(run, events, config), Display(screen, run), *pictures, *stopping, best]
        trainer = make_trainer(config["trainer"], logger=events, callbacks=[*own, *callbacks])

        parameters = sum(parameter.numel() for parameter in classifier.net.parameters())
        run.update(
            dataset={"name": data.name, "sizes": data.sizes, "sample": data.name != "MNIST"},
            parameters=parameters,
            device=describe_device(trainer),
            precision=trainer.precision,
        )
        _show_start(run, classifier, screen)
        if run.writes:
            images, _ = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
            events.log_start(config, classifier.net, images[:1])

        trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if best.best_model_path:
            weights = torch.load(best.best_model_path, weights_only=True)["state_dict"]
            classifier.load_state_dict(weights)
        trainer.test(classifier, datamodule=data, verbose=False)
        run.update(**classifier.eval_metrics.read("test"))
        if run.writes:
            events.log_result(flatten_settings(config, parameters), _final_metrics(run.result))
            events.experiment.close()

    screen.show("")
    screen.show(format_result(run.result))
    evaluate = shorten(PROJECT / "scripts" / "evaluate.py")
    screen.show(f"\nMeasure it again: python {evaluate} {shorten(run_dir)}")
    screen.show(f"See its curves:   tensorboard --logdir {shorten(Path(config['output_dir']))}")
    return run


def _find_step(checkpoint: Path | None) -> int | None:
    """The first optimizer step after the checkpoint."""
    if not checkpoint:
        return None
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"] + 1


def build(config: Mapping[str, Any]) -> tuple[LightningDataModule, ImageClassifier]:
    """The data module and the classifier with its network, for a checked config.

    Raises:
        ConfigError: for settings that their constructors refuse.
    """
    try:
        data = instantiate(config["data"], seed=config["seed"], _convert_="all")
        net = instantiate(
            config["model"], input_shape=data.input_shape, num_classes=data.num_classes, _convert_="all"
        )
        classifier = ImageClassifier(
            net,
            data.num_classes,
            make_optimizer=instantiate(config["optimizer"], _partial_=True, _convert_="all"),
            make_scheduler=instantiate(config["scheduler"], _partial_=True, _convert_="all"),
            label_smoothing=config["label_smoothing"],
            watched=data.watched,
        )
    except InstantiationException as error:
        raise ConfigError(str(error.__cause__ or error)) from error
    return data, classifier


def _try_settings(config: Mapping[str, Any], classifier: ImageClassifier) -> None:
    """Build the optimizer, its schedule and the Trainer once for their checks, before anything is written."""
    try:
        optimizer = classifier.make_optimizer(classifier.net.parameters())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    logging.disable(logging.INFO)  # the real one says the same again
    try:
        trainer = make_trainer(config["trainer"], logger=False, enable_checkpointing=False)
    finally:
        logging.disable(logging.NOTSET)
    endless = trainer.max_epochs == -1 and trainer.max_steps == -1
    try:
        classifier.make_scheduler(optimizer, float("inf") if endless else 100)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"scheduler: {error}") from error


def _make_checkpoint(config: Mapping[str, Any], data: Any, run_dir: Path) -> ModelCheckpoint:
    """best.ckpt by validation accuracy, or the latest where nothing is validated; and last.ckpt."""
    validated = (
        data.watched == "val" and data.sizes["val"] and config["trainer"].get("limit_val_batches") != 0
    )
    return ModelCheckpoint(
        dirpath=run_dir / "checkpoints",
        filename="best",
        monitor="val/accuracy" if validated else None,
        mode="max",
        save_last=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


def _make_early_stopping(config: Mapping[str, Any]) -> list[EarlyStopping]:
    settings = config["early_stopping"]
    if settings["patience"] is None:
        return []
    mode = "max" if settings["monitor"].endswith("accuracy") else "min"
    return [EarlyStopping(settings["monitor"], settings["min_delta"], settings["patience"], mode=mode)]


def _make_pictures(config: Mapping[str, Any], events: EventLogger) -> list[Pictures]:
    settings = dict(config["pictures"])
    return [Pictures(events, **settings)] if settings.pop("enabled") else []


@contextlib.contextmanager
def _recording(run: Run, config: Mapping[str, Any], screen: Screen) -> Iterator[None]:
    """Keep result.json true from the first moment to the last, however the run ends."""
    with hold(run.path):
        _start_record(run, config)
        ending: dict[str, Any] = {"status": "completed"}
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns Ctrl+C into sys.exit
            ending = {"status": "interrupted"}
            screen.show(f"\nInterrupted. What was finished is in {shorten(run.path)}", style="bold yellow")
            raise SystemExit(EXIT_SIGTERM if isinstance(error, SIGTERMException) else EXIT_SIGINT) from None
        except RunPruned as error:
            ending = {"status": "pruned", "reason": str(error)}
            raise
        except Exception as error:
            details = traceback.format_exc()
            ending = {"status": "failed", "error": f"{type(error).__name__}: {error}", "traceback": details}
            log.error("the run failed\n%s", details)
            if isinstance(error, CnnLabError) or config["trainer"].get("detect_anomaly"):
                raise
            raise CnnLabError(
                f"the run failed: {ending['error']}\nIts log: {shorten(run.path / 'train.log')}"
            ) from error
        finally:
            run.update(**ending)
            if run.rows and run.writes:
                data_name = run.result["dataset"]["name"]
                draw_curves(run.rows, run.path / "curves.png", f"{run.result['label']} on {data_name}")


def _start_record(run: Run, config: Mapping[str, Any]) -> None:
    versions = {
        "cnn_lab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    if run.writes:
        write_logs(run.path / "train.log")
    run.write_config(config)
    run.update(versions=versions)


def _final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    last = {"val_accuracy": result["best"]["val/accuracy"]} if result["best"] else {}
    return {
        **last,
        "test_accuracy": result["test/accuracy"],
        "test_loss": result["test/loss"],
        "seconds_per_epoch": result["seconds_per_epoch"],
    }


def _show_start(run: Run, classifier: ImageClassifier, screen: Screen) -> None:
    result = run.result
    sizes = ", ".join(f"{size:,} {name}" for name, size in result["dataset"]["sizes"].items() if size)
    title = [
        f"{type(classifier.net).__name__}, {result['parameters']:,} parameters",
        f"{result['dataset']['name']}: {sizes}",
        f"{result['device']}, {result['precision']}",
    ]
    screen.show(" | ".join(title), style="bold")
    screen.show(f"{shorten(run.path)}\n")
    layers = getattr(classifier.net, "layers", None)
    if layers:
        screen.show(format_layers(layers))
        screen.show("")


def _load_data(data: Any, config: dict[str, Any], run: Run, screen: Screen) -> None:
    """Read the images, and say so loudly where the sample must stand in for them."""
    data.prepare_data()
    data.setup("fit")
    if not getattr(data, "sample_reason", ""):
        return
    config["data"] = {**config["data"], "root": None}  # the run can be repeated and evaluated as it was
    run.write_config(config)
    screen.show(
        f"MNIST is not in {data.root} and cannot be downloaded: training on the embedded sample of "
        f"{sum(data.sizes.values()):,} digits instead. Reason: {data.sample_reason}\n",
        style="bold yellow",
    )
