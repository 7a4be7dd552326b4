"""Every mistake gets one message that names the key, the value and what is allowed."""

import inspect
import sys
from pathlib import Path

import pytest
import torch

from cnn_lab.errors import ConfigError, suggest
from cnn_lab.settings.config import check_config
from cnn_lab.settings.typed import check_typed, explain, is_about_typing
from cnn_lab.training import train
from conftest import FAST, compose_config, train_command

OF_ADAM = ", ".join(sorted(set(inspect.signature(torch.optim.Adam).parameters) - {"params"}))
NO_CHANNELS = "cnn_lab.model.CNN has no setting 'chanels'. Did you mean 'model.channels'?"

# Whole messages, but where a part of them is a library's: those begin so.
MISTAKES = {
    "model.chanels=[8,16]": NO_CHANNELS,
    "+model.chanels=[8,16]": NO_CHANNELS,
    "sed=1": "cnn-lab has no setting 'sed'. Did you mean 'seed'?",
    "+sed=1": "cnn-lab has no setting 'sed'. Did you mean 'seed'?",
    "compile=1": "cnn-lab has no setting 'compile' (--help lists what there is)",
    "trainer.compile=1": "lightning.pytorch.Trainer has no setting 'compile' (--help lists what there is)",
    "~output_dir": "output_dir is missing",
    "optimizer.wings=1": f"torch.optim.Adam has no setting 'wings' (choose from {OF_ADAM})",
    "+scheduler.eta=1": "cnn_lab.scheduler.constant has no setting 'eta' (it has none)",
    "+early_stopping.patiense=3": "early_stopping has no setting 'patiense'. Did you mean 'early_stopping.patience'?",
    "model.input_shape=[3,32,32]": "model.input_shape cannot be set: the run sets it itself",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run cannot be set: the run sets it itself",
    "model._target_=cnn_lab.model.CNM": "model._target_=cnn_lab.model.CNM: there is no 'cnn_lab.model.CNM' in ",
    "model._target_=my_nets.MyNet": (
        f"model._target_=my_nets.MyNet: no module 'my_nets' is installed or in {Path.cwd()}"
    ),
    "hydra.run.dir=foo": "hydra.run.dir=foo cannot be set. Hydra's settings that can be set: hydra.launcher, ",
    "hydra.output_subdir=../../x": "hydra.output_subdir=../../x cannot be set. ",
    "seed=one": "seed=one must be an integer",
    **{
        typed: f"{typed} has no value: type one after the =. If it comes from a shell variable, that variable is not set"
        for typed in ("resume=", "label=", "data.root=", "output_dir=", "model=", "+trainer.profiler=")
    },
    **{
        typed: f"{typed.partition('=')[0]} is for a sweep: add -m and what you typed for that sweep"
        for typed in ("sweep.repeat=latest", "hydra/launcher=joblib", "hydra.sweeper.n_trials=3")
    },
    "model.dropout=high": "model.dropout=high must be a number",
    "model.channels=16": "model.channels=16 must be a list of integers",
    "model.channels=16,32": (
        "model.channels=16,32 gives several values: add -m to train one network for each, or use brackets for one list: "
        "'model.channels=[16,32]'"
    ),
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] must be a list like [number,number]",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten must be an integer or null",
    "data.test_each_epoch=maybe": "data.test_each_epoch=maybe must be true or false",
    "model.dropout=1.5": "model.dropout=1.5 is out of range: it must be at least 0 and below 1",
    "optimizer.lr=-0.1": "optimizer.lr=-0.1 is out of range: it must be above 0",
    "seed=-1": "seed=-1 is out of range: it must be at least 0 and at most 4294967295",
    "data.mean=nan": "data.mean=nan is out of range: it must be a finite number",
    "trainer.accumulate_grad_batches=1000000000000000000000": (
        "trainer.accumulate_grad_batches=1000000000000000000000 is out of range: it must have at most 18 digits"
    ),
    "trainer.max_epochs=0": "trainer.max_epochs=0 is out of range: it must be at least 1, or -1 for no limit",
    "data.root=.": "data.root=. is not used: cnn_lab.sources.idx.read_mnist reads no folder; leave it out",
    "data=fashion_mnist data.root=null": (
        "data.root is missing: cnn_lab.sources.idx.read_idx needs the folder or file of the images"
    ),
    "data.classes=[3]": "data.classes=[3] must name at least two classes",
    "data.classes=[3,8,3]": "data.classes names the class 3 more than once",
    "data.val_size=2.5": "data.val_size=2.5 must be a number of images, or a share of them below 1",
    "data.fold=5": "data.fold=5 is out of range: with data.folds=5 there are 0 to 4",
    "model.kernel_sizes=[3,3,3]": (
        "model.kernel_sizes has 3 values and model.channels 2: give one value for all blocks or one per block"
    ),
    "model=resnet model.depth=21": (
        "model.depth=21 does not give whole blocks: with 3 model.widths it must be 6 * n + 2, as in model.depth=20"
    ),
    "model=vgg data.input_shape=[1,6,6]": (
        "model: block 6: a 2x2 pool does not fit its 1x1 input; use fewer blocks or model.pool=none"
    ),
    "model.pool=blur": "model.pool=blur is not an option (choose from none, max, avg)",
    "model.hidden=[1000000000]": (
        "model: this network would have 3,147,000,018,826 parameters, and 500,000,000 is the most: use "
    ),
    "model.num_outputs=3": "model.num_outputs=3: for 10 classes it must be 10",
    "optimizer=lion": "optimizer=lion is not an option (choose from adam, adamw, rmsprop, sgd)",
    "scheduler=plateau data.val_size=0": (
        "scheduler.monitor=val/loss needs validation images after each epoch, which data.val_size=0 leaves out; "
        "type scheduler.monitor=train/loss"
    ),
    "scheduler=plateau data.test_each_epoch=true": (
        "scheduler.monitor=val/loss needs validation images after each epoch, which data.test_each_epoch=true leaves "
        "out; type scheduler.monitor=train/loss"
    ),
    "scheduler=plateau trainer.check_val_every_n_epoch=2": (
        "scheduler.monitor=val/loss needs validation images after each epoch, which trainer.check_val_every_n_epoch=2 "
        "leaves out; type scheduler.monitor=train/loss"
    ),
    "early_stopping.patience=1 trainer.limit_val_batches=0": (
        "early_stopping.monitor=val/loss needs validation images after each epoch, which trainer.limit_val_batches=0 "
        "leaves out; type early_stopping.monitor=train/loss"
    ),
    "best=size": "best=size is not an option (choose from val/loss, val/accuracy)",
    "model.channels=[8": "'model.channels=[8' cannot be read as KEY=VALUE: ",
    "seed": "'seed' cannot be read as KEY=VALUE: ",
    "optimizer=[[]]": "the command cannot be read (",
    "label=${nope}": "label: ",
}  # fmt: skip


def refuse(*typed: str) -> str:
    """The message that a command with these overrides ends with, from the functions that it calls."""
    try:
        check_typed(typed)
        check_config(compose_config(*typed))
    except ConfigError as error:
        return str(error)
    except Exception as error:
        if not is_about_typing(error):
            raise
        return explain(error)
    return ""


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_message(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *typed.split()])  # which tells what was chosen
    message, expected = refuse(*typed.split()), MISTAKES[typed]
    assert message[: len(expected)] == expected
    assert message == expected or expected.endswith((" ", "("))
    assert "\n" not in message


# What people type who know other projects, and what they are told to type here.
HINTS = {
    "lr=0.01": "optimizer.lr",
    "learning_rate=0.01": "optimizer.lr",
    "optimizer.LR=0.01": "optimizer.lr",
    "epochs=5": "trainer.max_epochs",
    "trainer.epochs=5": "trainer.max_epochs",
    "train.epochs=5": "trainer.max_epochs",
    "+trainer.n_epochs=5": "trainer.max_epochs",
    "batch_size=128": "data.batch_size",
    "bs=128": "data.batch_size",
    "train_size=1000": "data.train_size",
    "workers=4": "data.num_workers",
    "gpus=1": "trainer.devices",
    "trainer.device=cuda": "trainer.accelerator",
    "fp16=true": "trainer.precision",
    "grad_clip=1": "trainer.gradient_clip_val",
    "optimizer=sgd momentum=0.9": "optimizer.momentum",
    "wd=0.01": "optimizer.weight_decay",
    "+optimizer.weigth_decay=1": "optimizer.weight_decay",
    "model.filters=[8]": "model.channels",
    "kernel_size=5": "model.kernel_sizes",
    "model.hidden_size=64": "model.hidden",
    "label_smoothing=0.1": "loss.label_smoothing",
    "patience=3": "early_stopping.patience",
    "early_stop.patience=3": "early_stopping.patience",
    "checkpoint=latest": "resume",
    "log_dir=x": "output_dir",
    "name=mine": "label",
    "optimiser=adam": "optimizer",
    "dataset=mnist": "data",
    "network=vgg": "model",
    "search=cnn n_trials=5": "hydra.sweeper.n_trials",
    "model=VGG": "vgg",
    "model=LeNet-5": "lenet",
    "data=FashionMNIST": "fashion_mnist",
    "data=emnist_digit": "emnist_digits",
    "optimizer=AdamW": "adamw",
    "scheduler=CosineAnnealingLR": "cosine",
    "scheduler=ReduceLROnPlateau": "plateau",
    "experiment=articel": "article",
    "hydra.mode=MULTIRUN hydra/launcher=jobli": "joblib",
    "model.activation=ReLU": "relu",
    "model.pool=MaxPool2d": "max",
    "model.norm=bn": "batch",
    "best=val_acc": "val/accuracy",
    "early_stopping.monitor=accuracy": "val/accuracy",
    "data=fashion_mnist data.classes=[shirt,Bag]": "Shirt",
    "model._target_=cnn_lab.model.Cnn": "CNN",
    "optimizer._target_=torch.optim.adam": "Adam",
}


@pytest.mark.parametrize("typed", HINTS)
def test_a_name_of_another_spelling_or_project_gets_a_hint(
    typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *typed.split()])
    assert refuse(*typed.split()).endswith(f". Did you mean '{HINTS[typed]}'?")


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"class {number}" for number in range(40)]
    assert suggest("dog", names) == f" (choose from {', '.join(names[:12])} and 28 more)"


TRAINERS_MISTAKES = {
    "trainer.precision=17": "trainer: ",
    "trainer.devices=4095": "trainer.devices=4095 would start 4095 processes on a CPU with ",
    "trainer.strategy=ddp_notebook": "trainer.strategy=ddp_notebook copies a running process, which ",
    "trainer._target_=torch.nn.Identity": "trainer._target_=torch.nn.Identity makes no Trainer",
    "optimizer._target_=torch.nn.Identity": "optimizer._target_ makes Identity, not an Optimizer",
    "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0": "optimizer: ",
    "scheduler=cosine trainer.max_epochs=null": "scheduler=cosine needs the length of the run: set trainer.max_",
    "trainer.max_epochs=-1 scheduler=one_cycle": "scheduler=one_cycle needs the length of the run: set trainer.",
    "data.mean=[0.1,0.2]": "data.mean needs a number for each channel (1), not 2",
}  # fmt: skip


@pytest.mark.parametrize("typed", TRAINERS_MISTAKES)
def test_what_only_the_built_objects_refuse_is_refused_before_a_file_is_written(
    typed: str, tmp_path: Path
) -> None:
    config = check_config(compose_config("trainer.accelerator=cpu", *typed.split()))
    with pytest.raises(ConfigError) as caught:
        train(config, tmp_path, quiet=True)
    assert str(caught.value).startswith(TRAINERS_MISTAKES[typed])
    assert not list(tmp_path.iterdir())


# One for each place on the way of a command at which it may end.
BY_COMMAND = {
    "hydra.run.dir=foo": "hydra.run.dir=foo cannot be set",
    "model.channels=[8": "'model.channels=[8' cannot be read as KEY=VALUE: ",
    "sed=1": "cnn-lab has no setting 'sed'. Did you mean 'seed'?",
    "model.dropout=1.5": "model.dropout=1.5 is out of range: ",
    "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0": "optimizer: ",
    "data.val_size=60000": "data.val_size=60000: there are 60,000 training images",
    "data.train_size=59501": "data.train_size=59501: there are 59,500 training images, besides 500 for validation",
    "trainer.limit_test_batches=0.001": "trainer.limit_test_batches=0.001 is less than one of 100 batches; type ",
}


@pytest.mark.parametrize("typed", BY_COMMAND)
def test_a_command_with_a_mistake_prints_one_line_and_leaves_nothing(typed: str, tmp_path: Path) -> None:
    done = train_command(*FAST, *typed.split(), f"output_dir={tmp_path / 'outputs'}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"Error: {BY_COMMAND[typed]}")
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["outputs", "runs"])


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"trainer\.accelerator=gpu: PyTorch finds no GPU on this machine, only a CPU with"
    ):
        train(check_config(compose_config("trainer=gpu")), tmp_path, quiet=True)


def test_a_mistake_in_an_experiment_file(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for content, message in {
        "model: {chanels: [8]}": NO_CHANNELS,
        "early_stopping: {patience: soon}": "early_stopping.patience=soon must be an integer or null",
    }.items():
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
        done = train_command("--config-dir", str(tmp_path), "experiment=mine")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")


def test_a_mistake_in_a_sweep_is_found_before_its_first_run(tmp_path: Path) -> None:
    done = train_command("-m", "model.chanels=[8],[16]", f"output_dir={tmp_path}")
    assert (done.returncode, done.stderr) == (2, f"Error: {NO_CHANNELS}\n")
    assert not list(tmp_path.rglob("*.json"))
