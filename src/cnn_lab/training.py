"""One training run, from checked settings to a directory that explains itself."""

import contextlib
import logging
import os
import platform
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer

from cnn_lab import __version__
from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import CnnLabError, ConfigError, RunInterrupted, RunPruned
from cnn_lab.pictures.events import EventLogger, flatten_settings
from cnn_lab.pictures.figures import draw_curves
from cnn_lab.pictures.network import Pictures
from cnn_lab.runs.checkpoints import Checkpoints, StopRequest, WholeFiles, load_checkpoint
from cnn_lab.runs.lock import hold
from cnn_lab.runs.record import BEST_CHECKPOINT, LAST_CHECKPOINT, Run
from cnn_lab.runs.recorder import Recorder
from cnn_lab.settings.config import PROJECT
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.terminal.display import Display
from cnn_lab.terminal.logs import claim_lightning_logs, write_logs
from cnn_lab.terminal.screen import Screen, format_layers, format_result, shorten
from cnn_lab.trainer import choose_hardware, describe_device, make_trainer, tune_cpu

log = logging.getLogger(__name__)


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
        config: what `cnn_lab.settings.config.check_config` returned.
        run_dir: an empty directory, or one of an interrupted run of the same config, which then goes on
            after its last checkpoint.
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
    with _recording(run, config, screen) as stop:
        _load_data(data, config, run, screen)
        _check_shares(config, data)
        checkpoint = run_dir / LAST_CHECKPOINT if (run_dir / LAST_CHECKPOINT).is_file() else None
        first_step = _note_resumption(run, checkpoint) if checkpoint else None
        if not checkpoint:
            run.keep_epochs(0)
        events = EventLogger(run_dir, first_step)
        recorder = Recorder(run, events, config)
        own = [recorder, Display(screen, run), *_make_callbacks(config, data, recorder, stop)]
        trainer = make_trainer(
            config["trainer"], logger=events, callbacks=[*own, *callbacks], plugins=[WholeFiles()]
        )

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

        with _blame_settings(stop):
            trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if recorder.best:
            best = torch.load(run_dir / BEST_CHECKPOINT, map_location="cpu", weights_only=True)
            classifier.load_state_dict(best["state_dict"])
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


def _note_resumption(run: Run, checkpoint: Path) -> int:
    """Record that the run goes on; returns the first optimizer step after the checkpoint."""
    # It knows of no other way to find the next batch than that of its own stateful loaders.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    step = load_checkpoint(checkpoint)["global_step"]
    resumed = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), "after_step": step}
    run.update(resumed=[*run.result.get("resumed", []), resumed])
    return step + 1


def build(config: Mapping[str, Any]) -> tuple[LightningDataModule, ImageClassifier]:
    """The data module and the classifier with its network, for a checked config.

    Raises:
        ConfigError: for settings that their constructors refuse.
    """
    try:
        data = instantiate(config["data"], seed=config["seed"], _convert_="all")
        _check_made(config, "data", data, LightningDataModule)
        net = instantiate(
            config["model"], input_shape=data.input_shape, num_classes=data.num_classes, _convert_="all"
        )
        _check_made(config, "model", net, nn.Module)
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


def _check_made(config: Mapping[str, Any], group: str, made: Any, kind: type) -> None:
    if not isinstance(made, kind):
        raise ConfigError(f"{group}._target_={config[group]['_target_']} makes no {kind.__name__}")


def _try_settings(config: Mapping[str, Any], classifier: ImageClassifier) -> None:
    """Build the optimizer, its schedule and the Trainer once for their checks, before anything is written."""
    try:
        optimizer = classifier.make_optimizer(classifier.net.parameters())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    _check_made(config, "optimizer", optimizer, Optimizer)
    logging.disable(logging.INFO)  # the real one says the same again
    try:
        trainer = make_trainer(config["trainer"], logger=False, enable_checkpointing=False)
    finally:
        logging.disable(logging.NOTSET)
    endless = trainer.max_epochs in (None, -1) and trainer.max_steps == -1
    try:
        classifier.make_scheduler(optimizer, float("inf") if endless else 100)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"scheduler: {error}") from error


def _check_shares(config: Mapping[str, Any], data: Any) -> None:
    """Refuse less than one batch, which Lightning would do for test images after training."""
    for split in ("train", "val", "test"):
        share = config["trainer"].get(f"limit_{split}_batches")
        batches = len(getattr(data, f"{split}_dataloader")())
        if isinstance(share, float) and 0 < share * batches < 1:
            raise ConfigError(
                f"trainer.limit_{split}_batches={share} is less than one of {batches} batches; "
                f"type trainer.limit_{split}_batches=1 for one of them"
            )


@contextlib.contextmanager
def _blame_settings(stop: StopRequest) -> Iterator[None]:
    """What Lightning refuses before the first step, when it knows data and optimizer, was typed."""
    try:
        yield
    except CnnLabError:
        raise
    except (MisconfigurationException, ValueError, TypeError) as error:
        if stop.is_awaited and not isinstance(error, MisconfigurationException):
            raise
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def _is_validated(config: Mapping[str, Any], data: Any) -> bool:
    """Whether validation images choose the best checkpoint."""
    return (
        data.watched == "val" and bool(data.sizes["val"]) and config["trainer"].get("limit_val_batches") != 0
    )


def _make_callbacks(
    config: Mapping[str, Any], data: Any, recorder: Recorder, stop: StopRequest
) -> Iterator[Callback]:
    pictures, stopping = dict(config["pictures"]), config["early_stopping"]
    if pictures.pop("enabled") and recorder.run.writes:
        yield Pictures(recorder.events, **pictures)
    if stopping["patience"] is not None:
        mode = "max" if stopping["monitor"].endswith("accuracy") else "min"
        yield EarlyStopping(stopping["monitor"], stopping["min_delta"], stopping["patience"], mode=mode)
    folder, minutes = recorder.run.path / "checkpoints", config["checkpoint_minutes"]
    yield Checkpoints(folder, recorder, stop, minutes, _is_validated(config, data))


@contextlib.contextmanager
def _recording(run: Run, config: Mapping[str, Any], screen: Screen) -> Iterator[StopRequest]:
    """Keep result.json true from the first moment to the last, however the run ends."""
    with hold(run.path), StopRequest() as stop:
        _start_record(run, config)
        ending: dict[str, Any] = {"status": "completed"}
        try:
            yield stop
        except (KeyboardInterrupt, SystemExit, RunInterrupted) as error:  # Lightning exits on Ctrl+C
            number = error.signal if isinstance(error, RunInterrupted) else signal.SIGINT
            ending = {"status": "interrupted", "signal": signal.Signals(number).name}
            screen.show(f"\n{_describe_interruption(run)}", style="bold yellow")
            raise SystemExit(128 + number) from None  # as shells have it
        except RunPruned as error:
            ending = {"status": "pruned", "reason": str(error)}
            raise
        except Exception as error:
            details = traceback.format_exc()
            name = "" if isinstance(error, CnnLabError) else f"{type(error).__name__}: "
            ending = {"status": "failed", "error": f"{name}{error}", "traceback": details}
            log.error("the run failed\n%s", details)
            if isinstance(error, CnnLabError) or config["trainer"].get("detect_anomaly"):
                raise
            raise CnnLabError(_describe_failure(run, error)) from error
        finally:
            _end_record(run, ending)


def _describe_interruption(run: Run) -> str:
    if not (run.path / LAST_CHECKPOINT).exists():
        return f"Interrupted, with nothing to go on from. What there is: {shorten(run.path)}"
    train = shorten(PROJECT / "scripts" / "train.py")
    return f"Interrupted. Go on with it: python {train} resume={shorten(run.path)}"


def _describe_failure(run: Run, error: Exception) -> str:
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if not cause:
        return f"the run failed: {type(error).__name__}: {error}\nIts log: {shorten(run.path / 'train.log')}"
    has_checkpoint = (run.path / LAST_CHECKPOINT).is_file()
    train = shorten(PROJECT / "scripts" / "train.py")
    then = f"go on with: python {train} resume={shorten(run.path)}" if has_checkpoint else "start it again"
    reason = cause.strerror or cause
    return (
        f"{os.fsdecode(cause.filename or run.path)} cannot be written: {reason}. When that is mended, {then}"
    )


def _end_record(run: Run, ending: Mapping[str, Any]) -> None:
    try:
        run.update(**ending)
        if run.rows and run.writes:
            data_name = run.result["dataset"]["name"]
            draw_curves(run.rows, run.path / "curves.png", f"{run.result['label']} on {data_name}")
    except OSError:
        log.exception("the record of the run's end cannot be written")
        if ending["status"] == "completed":
            raise


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
    last = {"val_accuracy": result["best"]["val/accuracy"]} if result.get("best") else {}
    return {
        **last,
        "test_accuracy": result["test/accuracy"],
        "test_loss": result["test/loss"],
        "seconds_per_epoch": result.get("seconds_per_epoch", 0.0),
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
