"""Every config file composes and makes what it names; composing waits for nothing."""

import inspect
import itertools
import math
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from cnn_lab.assembly import assemble
from cnn_lab.settings.config import GROUPS, PROJECT, check_config
from cnn_lab.trainer import is_endless, make_trainer
from conftest import compose_config, train_command

CONF = PROJECT / "conf"
OWN = {CONF / group / "own.yaml" for group in ("model", "loss")}  # they name nothing; tried in test_readme.py
FILES = {path for path in CONF.rglob("*.yaml") if path.parent != CONF} - OWN
OPTIONS, EXPERIMENTS, SEARCHES, HYDRA = (
    sorted(
        f"{path.parent.relative_to(CONF)}={path.stem}"
        for path in FILES
        if path.relative_to(CONF).parts[0] in folders
    )
    for folders in ([*GROUPS, "logger"], ["experiment"], ["search"], ["hydra"])
)
OWN = ("data=arrays", "data=folder", "data=own")  # need images: see tests/sources/test_own.py
TRAINER_FLAGS = [
    "accelerator=cpu", "devices=2", "strategy=ddp", "precision=32-true", "max_epochs=3", "max_steps=7", "min_epochs=2",
    "min_steps=3", "max_time=00:01:00:00", "limit_train_batches=0.5", "limit_val_batches=3", "limit_test_batches=2",
    "overfit_batches=2", "gradient_clip_val=1.0", "gradient_clip_algorithm=value", "accumulate_grad_batches=2",
    "deterministic=true", "benchmark=true", "log_every_n_steps=5", "check_val_every_n_epoch=2", "num_sanity_val_steps=1",
    "detect_anomaly=true", "sync_batchnorm=true", "profiler=simple",
]  # fmt: skip


def test_every_file_of_conf_is_tested_here_and_every_group_is_in_the_config() -> None:
    assert len(FILES) == len([*OPTIONS, *EXPERIMENTS, *SEARCHES, *HYDRA])
    assert {*GROUPS, "logger"} == {option.partition("=")[0] for option in OPTIONS}
    assert set(GROUPS) <= set(check_config(compose_config()))


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in OWN])
def test_every_option_composes_and_makes_what_trains(option: str) -> None:
    settings = check_config(compose_config(option))
    if option == "trainer=gpu":
        assert settings["trainer"]["accelerator"] == "gpu"
        return
    data, classifier = assemble(settings)
    trainer = make_trainer(settings["trainer"], logger=False)
    _, schedule = classifier.build_optimizer(math.inf if is_endless(trainer) else 10)
    assert (schedule is None) == (settings["scheduler"]["_target_"] == "cnn_lab.scheduler.constant")
    assert classifier(torch.zeros(2, *data.input_shape)).shape == (2, data.num_classes)
    assert trainer.max_epochs == settings["trainer"]["max_epochs"]


@pytest.mark.parametrize("option", HYDRA)
def test_every_sweeper_and_launcher_composes_and_names_what_exists(option: str) -> None:
    group, _, _ = option.partition("=")
    overrides = ["hydra/sweeper=optuna", option] if group.startswith("hydra/sweeper/") else [option]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    node = OmegaConf.to_container(OmegaConf.select(config, group.replace("/", ".")), resolve=True)
    accepted = inspect.signature(get_class(node["_target_"]).__init__).parameters
    if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in accepted.values()):
        assert {key for key in node if key not in ("_target_", "_recursive_")} <= set(accepted)


@pytest.mark.parametrize("option", [*EXPERIMENTS, *SEARCHES])
def test_every_experiment_composes_and_opens_with_its_command_and_its_cost(option: str) -> None:
    check_config(compose_config(option))
    group, _, name = option.partition("=")
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    header = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    if group == "experiment":
        assert f"python scripts/train.py {option}" in header
        assert "minutes" in header
        assert "% test accuracy" in header


def test_experiment_article_is_the_article() -> None:
    settings = check_config(compose_config("experiment=article"))
    data, model, optimizer, trainer = (settings[name] for name in ("data", "model", "optimizer", "trainer"))
    assert data["source"]["_target_"] == "cnn_lab.sources.idx.read_mnist"
    assert [data[name] for name in ("batch_size", "train_size", "val_size", "test_each_epoch", "mean", "std")] == [
        64, None, 0, True, 0.1307, 0.3081
    ]  # fmt: skip
    assert [model[name] for name in ("channels", "kernel_sizes", "hidden", "dropout")] == [
        [32, 64],
        3,
        [128],
        0.5,
    ]
    assert (optimizer["_target_"], optimizer["lr"]) == ("torch.optim.Adam", 0.001)
    assert settings["scheduler"]["_target_"] == "cnn_lab.scheduler.constant"
    assert (trainer["max_epochs"], trainer["precision"]) == (10, "32-true")


def test_the_usual_trainer_flags_need_no_plus() -> None:
    trainer = check_config(compose_config(*(f"trainer.{flag}" for flag in TRAINER_FLAGS)))["trainer"]
    assert [
        f"{name}={trainer[name]}".lower() for name, _, _ in (flag.partition("=") for flag in TRAINER_FLAGS)
    ] == [flag.lower() for flag in TRAINER_FLAGS]


def test_composing_and_refusing_do_not_import_torch() -> None:
    script = str(PROJECT / "scripts" / "train.py")
    code = (
        "import runpy, sys\n"
        "for typed in (['sed=1'], ['model.dropout=2'], ['--cfg', 'job'], ['--help']):\n"
        f"    sys.argv = [{script!r}, *typed]\n"
        f"    try: runpy.run_path({script!r}, run_name='__main__')\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Error: ") == 2


def test_help_lists_groups_and_settings() -> None:
    text = train_command("--help").stdout
    for words in (
        "optimizer: adam, adamw, rmsprop, sgd",
        "kernel_sizes: 3",
        "seed: 0",
        "experiment: architectures, article",
    ):
        assert words in text
