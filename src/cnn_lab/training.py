"""One training run, from checked settings to a directory that explains itself."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torchmetrics import Metric

from cnn_lab.assembly import assemble, make
from cnn_lab.classifier import ImageClassifier
from cnn_lab.errors import ConfigError
from cnn_lab.metrics import check_fit, find_mode
from cnn_lab.pictures.events import EventLogger
from cnn_lab.pictures.network import Pictures
from cnn_lab.runs.checkpoints import Checkpoints, WholeFiles, load_checkpoint
from cnn_lab.runs.ending import recording
from cnn_lab.runs.loggers import ending, make_loggers
from cnn_lab.runs.record import BEST_CHECKPOINT, LAST_CHECKPOINT, Run
from cnn_lab.runs.recorder import Recorder
from cnn_lab.runs.stopping import StopRequest
from cnn_lab.settings.environment import settle_environment, share_run_directory
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.settings.places import DATA
from cnn_lab.sources.download import refuse_downloads
from cnn_lab.terminal.display import Display
from cnn_lab.terminal.logs import claim_lightning_logs
from cnn_lab.terminal.screen import Screen
from cnn_lab.trainer import check_training, choose_hardware, is_endless, make_trainer, tune_cpu


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
        ConfigError: for settings that only the built objects can refuse.
        CnnLabError: when the run failed; `run_dir` says why.
        RunPruned: when one of `callbacks` ended it.
    """
    settle_environment()
    share_run_directory(run_dir)
    claim_lightning_logs()
    tune_cpu()
    seed_everything(config["seed"], workers=True, verbose=False)
    name = fingerprint(config)
    data, classifier = assemble(config)

    run = Run(run_dir, label=label, overrides=list(overrides), seed=config["seed"], fingerprint=name)
    screen = Screen(quiet=quiet or not run.writes)
    checkpoint = run_dir / LAST_CHECKPOINT if (run_dir / LAST_CHECKPOINT).is_file() else None
    done = load_checkpoint(checkpoint, trust=True)["global_step"] if checkpoint else None
    events = EventLogger(run_dir, None if done is None else done + 1)
    stop = StopRequest()
    own = make_callbacks(config, classifier.metrics, run, events, stop, screen)
    settings = choose_hardware(run.keep_precision(config["trainer"]))
    check_training(settings, is_fused=bool(config["optimizer"].get("fused")))
    trainer = make_trainer(
        settings,
        logger=events,
        callbacks=[*own, *callbacks],
        plugins=[WholeFiles()],
        default_root_dir=run_dir,
    )
    # Once for what only they refuse, before anything is loaded or written; Lightning asks for them later.
    classifier.build_optimizer(float("inf") if is_endless(trainer) else 100)
    check_fit(classifier.loss, classifier.metrics, data.num_classes)
    if run.writes:  # what it refuses leaves the run, and what its loggers have stored, as they were
        screen.wait_for("Reading the images")
        read_images(data, is_resumed=bool(checkpoint))
    loggers = make_loggers(config["logger"], run, Path(config["output_dir"]))
    trainer.loggers = [events, *loggers]

    with stop, ending(loggers, run), recording(run, config, screen):
        fit(trainer, classifier, data, checkpoint)
        screen.wait_for("Testing the best checkpoint")
        test_best(trainer, classifier, data, run_dir / BEST_CHECKPOINT)
        events.experiment.close()
    return run


def make_callbacks(
    config: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    run: Run,
    events: EventLogger,
    stop: StopRequest,
    screen: Screen,
) -> Iterator[Callback]:
    """The run's own callbacks and the user's, in the order in which Lightning is to call them."""
    recorder = Recorder(run, events, config, find_mode("best", config["best"], metrics))
    yield recorder
    yield Display(screen, run, list(metrics))
    pictures, stopping = dict(config["pictures"]), config["early_stopping"]
    if pictures.pop("enabled") and run.writes:
        yield Pictures(events, **pictures)
    if stopping["patience"] is not None:
        monitor, min_delta, patience = (stopping[name] for name in ("monitor", "min_delta", "patience"))
        mode = find_mode("early_stopping.monitor", monitor, metrics)
        at_epoch_end = monitor.startswith("train/")  # else after each validation
        yield EarlyStopping(monitor, min_delta, patience, mode=mode, check_on_train_epoch_end=at_epoch_end)
    for name, node in config["callbacks"].items():
        yield make(f"callbacks.{name}", node, Callback)
    yield Checkpoints(recorder, stop, config["checkpoint_minutes"])


def read_images(data: LightningDataModule, is_resumed: bool) -> None:
    """Read the images, which the data module keeps.

    Nothing is downloaded to a folder that only the config of a resumed run names.

    Raises:
        ConfigError: for settings that do not fit the images.
        DataError: for images that cannot be had, or are not what was stated.
    """
    is_foreign = is_resumed and getattr(data, "root", None) not in (None, str(DATA))
    with refuse_downloads() if is_foreign else nullcontext():
        data.prepare_data()
        data.setup("fit")


def fit(
    trainer: Trainer, classifier: ImageClassifier, data: LightningDataModule, checkpoint: Path | None
) -> None:
    """Train, from `checkpoint` on if there is one.

    Raises:
        ConfigError: for settings that Lightning refuses once it knows the data and the optimizer.
    """
    # Before a checkpoint's numbers are put into it: Lightning does so after, when float64 has become float32.
    trainer.precision_plugin.convert_module(classifier)
    # Lightning takes a run with max_steps for one without epochs, and resumes inside one that has ended.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def test_best(
    trainer: Trainer, classifier: ImageClassifier, data: LightningDataModule, checkpoint: Path
) -> None:
    """Measure the best checkpoint on the test images; where no epoch has ended, the network as it is."""
    if checkpoint.is_file():
        best = torch.load(checkpoint, map_location="cpu", weights_only=True)
        classifier.load_state_dict(best["state_dict"])
    trainer.test(classifier, datamodule=data, verbose=False)
