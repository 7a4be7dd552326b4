"""Every config file composes and instantiates; every mistake in one gets one message."""

import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from cnn_lab.errors import ConfigError
from cnn_lab.runs.trust import check_trusted
from cnn_lab.settings.config import GROUPS, PROJECT, check_config
from cnn_lab.trainer import choose_hardware, make_trainer
from cnn_lab.training import build
from conftest import compose_config, train_command

OPTIONS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in (PROJECT / "conf").glob("*/*.yaml")
    if path.parent.name in GROUPS
)
HYDRA = sorted(
    f"{path.parent.relative_to(PROJECT / 'conf')}={path.stem}"
    for path in (PROJECT / "conf" / "hydra").rglob("*.yaml")
)
SEARCHES = sorted(path.stem for path in (PROJECT / "conf" / "search").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (PROJECT / "conf" / "experiment").glob("*.yaml"))
TRAINER_FLAGS = [
    "accelerator=cpu", "devices=2", "strategy=ddp", "num_nodes=2", "precision=32-true", "max_epochs=3",
    "max_steps=7", "min_epochs=2", "min_steps=3", "max_time=00:01:00:00", "limit_train_batches=0.5",
    "limit_val_batches=3", "limit_test_batches=2", "overfit_batches=2", "gradient_clip_val=1.0",
    "gradient_clip_algorithm=value", "accumulate_grad_batches=2", "deterministic=true", "benchmark=true",
    "log_every_n_steps=5", "val_check_interval=0.5", "check_val_every_n_epoch=2", "num_sanity_val_steps=1",
    "detect_anomaly=true", "sync_batchnorm=true", "profiler=simple",
]  # fmt: skip


def test_every_config_file_is_reached() -> None:
    files = {path for path in (PROJECT / "conf").rglob("*.yaml") if path.name != "train.yaml"}
    assert len(files) == len(OPTIONS) + len(EXPERIMENTS) + len(HYDRA) + len(SEARCHES) == 37


@pytest.mark.parametrize("option", [item for item in OPTIONS if item != "trainer=gpu"])
def test_every_option_composes_and_instantiates(option: str) -> None:
    settings = check_config(compose_config(option))
    settings["trainer"] = choose_hardware(settings["trainer"])
    data, classifier = build(settings)
    optimizer = classifier.make_optimizer(classifier.net.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    schedule = classifier.make_scheduler(optimizer, 10)
    assert schedule is None or schedule["interval"] in ("step", "epoch")
    assert classifier.net(torch.zeros(2, *data.input_shape)).shape == (2, data.num_classes)
    assert make_trainer(settings["trainer"], logger=False).max_epochs >= 1


def test_trainer_gpu_asks_for_a_gpu() -> None:
    settings = check_config(compose_config("trainer=gpu"))
    assert settings["trainer"]["accelerator"] == "gpu"


@pytest.mark.parametrize("option", HYDRA)
def test_every_sweeper_and_launcher_composes_and_names_what_exists(option: str) -> None:
    group, _, _ = option.partition("=")
    overrides = ["hydra/sweeper=optuna", option] if group.startswith("hydra/sweeper/") else [option]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    node = OmegaConf.to_container(OmegaConf.select(config, group.replace("/", ".")), resolve=True)
    target = get_class(node["_target_"])
    accepted = inspect.signature(target.__init__).parameters
    if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in accepted.values()):
        assert {key for key in node if key not in ("_target_", "_recursive_")} <= set(accepted)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_composes(name: str) -> None:
    check_config(compose_config(f"search={name}"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_opens_with_its_command(name: str) -> None:
    check_config(compose_config(f"experiment={name}"))
    text = (PROJECT / "conf" / "experiment" / f"{name}.yaml").read_text()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    for words in (f"python scripts/train.py experiment={name}", "minutes", "% test accuracy"):
        assert words in header


def test_experiment_article_is_the_article() -> None:
    settings = check_config(compose_config("experiment=article"))
    data, model, optimizer, trainer = (settings[name] for name in ("data", "model", "optimizer", "trainer"))
    assert (data["batch_size"], data["val_size"], data["test_each_epoch"], data["allow_sample"]) == (
        64,
        0,
        True,
        False,
    )
    assert (model["channels"], model["kernel_sizes"], model["hidden"], model["dropout"]) == (
        [32, 64],
        3,
        [128],
        0.5,
    )
    assert (optimizer["_target_"], optimizer["lr"]) == ("torch.optim.Adam", 0.001)
    assert (settings["scheduler"]["_target_"], trainer["max_epochs"]) == ("cnn_lab.scheduler.constant", 10)
    assert trainer["precision"] == "32-true"


@pytest.mark.parametrize("flag", TRAINER_FLAGS)
def test_the_usual_trainer_flags_need_no_plus(flag: str) -> None:
    name, _, value = flag.partition("=")
    assert str(check_config(compose_config(f"trainer.{flag}"))["trainer"][name]).lower() == value


def test_every_name_of_the_config_has_the_same_meaning_everywhere() -> None:
    folders = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment", "search", "hydra"}
    assert set(GROUPS) <= set(check_config(compose_config()))


CNN_NAMES = "activation, channels, dropout, hidden, kernel_sizes, norm, paddings, pool, strides"
TOP_NAMES = (
    "data, model, optimizer, scheduler, trainer, seed, label, label_smoothing, early_stopping, "
    "checkpoint_minutes, resume, pictures, sweep, output_dir"
)
ADAM_NAMES = (
    "amsgrad, betas, capturable, decoupled_weight_decay, differentiable, eps, foreach, fused, lr, maximize, "
    "weight_decay"
)
NO_ADAM = "is no setting of torch.optim.Adam"
NO_CHANNELS = (
    f"model.chanels is no setting of cnn_lab.model.CNN; did you mean 'channels'? (there are {CNN_NAMES})"
)
MISTAKES = {
    "model.chanels=[8,16]": NO_CHANNELS,
    "+model.chanels=[8,16]": NO_CHANNELS,
    "+sed=1": f"sed is no setting; did you mean 'seed'? (there are {TOP_NAMES})",
    "model.channels=[8": (
        "'model.channels=[8' cannot be read as KEY=VALUE: no viable alternative at input '[8'"
    ),
    "seed": "'seed' cannot be read as KEY=VALUE: Error parsing override 'seed'",
    "data=null": "Config group override must be a string or a list. Got NoneType",
    "~seed": "seed is missing",
    "sed=1": f"sed is no setting; did you mean 'seed'? (there are {TOP_NAMES})",
    "optimiser=adam": f"optimiser is no setting; did you mean 'optimizer'? (there are {TOP_NAMES})",
    "+optimizer.weigth_decay=1": (
        f"optimizer.weigth_decay {NO_ADAM}; did you mean 'weight_decay'? (there are {ADAM_NAMES})"
    ),
    "optimizer.maximize=true": (
        "optimizer.maximize is not in the config, but torch.optim.Adam takes it: type +optimizer.maximize=..."
    ),
    "early_stopping.patiense=3": (
        "early_stopping.patiense is no setting; did you mean 'patience'? "
        "(there are min_delta, monitor, patience)"
    ),
    "model.input_shape=[3,32,32]": "model.input_shape cannot be set: the run sets it itself",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run cannot be set: the run sets it itself",
    "seed=one": "seed has the wrong type: Value 'one' of type 'str' could not be converted to Integer",
    "model.dropout=high": "model.dropout=high has the wrong type: it takes float",
    "model.channels=16": "model.channels=16 has the wrong type: it takes a list of int",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9] has the wrong type: it takes a list like [float,float]",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten has the wrong type: it takes int or null",
    "data.allow_sample=maybe": "data.allow_sample=maybe has the wrong type: it takes bool",
    "model.dropout=1.5": "model.dropout=1.5 is out of range: it must be at least 0 and below 1",
    "optimizer.lr=-0.1": "optimizer.lr=-0.1 is out of range: it must be above 0",
    "data.batch_size=0": "data.batch_size=0 is out of range: it must be at least 1 and at most 1000000",
    "data.val_size=70000": "data.val_size=70000 is out of range: it must be at least 0 and at most 59990",
    "trainer.max_epochs=0": "trainer.max_epochs=0 is out of range: it must be at least 1, or -1 for no limit",
    "seed=-1": "seed=-1 is out of range: it must be at least 0 and at most 4294967295",
    "model.channels=[]": "model.channels is empty: give the output channels of each block, as in [32,64]",
    "model.kernel_sizes=[3,3,3]": (
        "model.kernel_sizes has 3 values and model.channels 2: give one value for all blocks or one a block"
    ),
    "model.channels=[8,8,8] model.kernel_sizes=[5,5,7] model.paddings=0 model.pool=[max,max,none]": (
        "model: block 3: a 7x7 kernel does not fit its 4x4 input; use fewer blocks, a smaller kernel, "
        "model.paddings=same or model.pool=none"
    ),
    "model.pool=maxi": "model.pool=maxi is not an option; did you mean 'max'? (it can be none, max, avg)",
    "optimizer=adamm": (
        "optimizer=adamm is not an option; did you mean 'adam'? (there are adam, adamw, rmsprop, sgd)"
    ),
    "experiment=articel": (
        "experiment=articel is not an option; did you mean 'article'? (there are article, channel_widths, dropout, "
        "kernel_sizes, optimizers)"
    ),
    "scheduler=plateau data.val_size=0": (
        "scheduler.monitor=val/loss needs validation images, and data.val_size=0 keeps none; "
        "type data.val_size=5000 or scheduler.monitor=train/loss"
    ),
    "early_stopping.monitor=test/loss": (
        "early_stopping.monitor=test/loss is not an option; did you mean 'train/loss'? "
        "(there are val/loss, val/accuracy, train/loss, train/accuracy)"
    ),
    "model._target_=cnn_lab.model.CNM": "model._target_=cnn_lab.model.CNM: there is no 'cnn_lab.model.CNM'",
    "~optimizer.lr +optimizer.lrate=1": (
        f"optimizer.lrate is no setting of torch.optim.Adam (there are {ADAM_NAMES})"
    ),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_message_and_leaves_nothing(typed: str, tmp_path: Path) -> None:
    done = train_command(*typed.split(), f"output_dir={tmp_path / 'outputs'}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {MISTAKES[typed]}\n")
    assert not (tmp_path / "outputs").exists()


LATER_MISTAKES = {
    "trainer.precision=17": "trainer: Precision 17 is invalid. Allowed precision values: (",
    "trainer.max_epochs=-1 scheduler=cosine": (
        "scheduler=cosine needs to know where the run ends: set trainer.max_epochs"
    ),
    "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0": (
        "optimizer: Nesterov momentum requires a momentum and zero dampening"
    ),
}


@pytest.mark.parametrize("typed", LATER_MISTAKES)
def test_what_only_the_libraries_refuse_leaves_nothing_either(typed: str, tmp_path: Path) -> None:
    done = train_command(*typed.split(), f"output_dir={tmp_path / 'outputs'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {LATER_MISTAKES[typed]}")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "outputs").rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    done = train_command("trainer.accelerator=gpu", f"output_dir={tmp_path}")
    build_note = "" if torch.version.cuda else " (this PyTorch is built without CUDA)"
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: trainer.accelerator=gpu: PyTorch finds no GPU here, only a CPU with 1 thread{build_note}; "
        "type trainer.accelerator=cpu or auto\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {chanels: [8]}", NO_CHANNELS),
        ("optimizer: {lrr: 1}", f"optimizer.lrr {NO_ADAM}; did you mean 'lr'? (there are {ADAM_NAMES})"),
        ("sed: 1", f"sed is no setting; did you mean 'seed'? (there are {TOP_NAMES})"),
        (
            "early_stopping: {patience: soon}",
            (
                "early_stopping.patience has the wrong type: "
                "Value 'soon' of type 'str' could not be converted to Integer"
            ),
        ),
    ],
)
def test_a_mistake_in_an_experiment_file(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    done = train_command("--config-dir", str(tmp_path), "experiment=mine")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message}\n")


def test_a_mistake_in_a_sweep_is_found_before_its_first_run(tmp_path: Path) -> None:
    done = train_command("-m", "model.chanels=[8],[16]", f"output_dir={tmp_path}")
    assert (done.returncode, done.stderr) == (2, f"Error: {NO_CHANNELS}\n")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["sed=1"]])
def test_composing_does_not_import_torch(arguments: list[str]) -> None:
    script = str(PROJECT / "scripts" / "train.py")
    code = (
        f"import runpy, sys; sys.argv = {[script, *arguments]!r}\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_lists_groups_and_settings() -> None:
    text = train_command("--help").stdout
    for words in (
        "optimizer: adam, adamw, rmsprop, sgd",
        "kernel_sizes: 3",
        "seed: 0",
        "experiment: article",
    ):
        assert words in text


def test_a_stored_config_may_only_name_targets_of_the_libraries() -> None:
    settings = check_config(compose_config())
    check_trusted(settings)
    for key in ("model", "optimizer"):
        with pytest.raises(ConfigError) as caught:
            check_trusted({**settings, key: {"_target_": "torch.hub.load", "x": 1}})
        assert str(caught.value) == (
            f"{key}._target_=torch.hub.load is refused: a stored config may only name targets under "
            "cnn_lab, torch.optim, torch.nn, lightning.pytorch"
        )
    with pytest.raises(ConfigError, match=r"model\.hidden\.0\._target_=os\.system is refused"):
        check_trusted({**settings, "model": {**settings["model"], "hidden": [{"_target_": "os.system"}]}})
