"""Train a network, or with -m one for every combination of values. --help lists the settings."""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig

from cnn_lab import __version__
from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.directory import STAMP, clean_label, make_label, new_run_directory
from cnn_lab.runs.resume import plan_resume
from cnn_lab.settings.config import check_config, list_typed
from cnn_lab.settings.places import CONF, find_own_conf
from cnn_lab.settings.typed import MULTIRUN, arrange, check_typed
from cnn_lab.sweeps.job import run_job
from cnn_lab.terminal.command import fail, run_command
from cnn_lab.terminal.waiting import hush, say


def main() -> None:
    """Look at what only the command line shows, then let Hydra compose the settings."""
    if "--version" in sys.argv[1:]:
        print(f"cnn-lab {__version__}")
        return
    check_typed(sys.argv[1:])
    sys.argv = [__file__, *arrange(sys.argv[1:])]  # Lightning starts a run's other processes with it
    if any(item.startswith("-") and item not in MULTIRUN for item in sys.argv):
        hush()  # since Hydra prints what was asked for
    use_own_conf()
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(run_task)()


def use_own_conf() -> None:
    """Let the options in the user's `conf/` stand before this project's; another project's are left alone."""
    folder = find_own_conf()
    if folder is None:
        return
    others = [path.name for path in folder.glob("*.yaml")]
    if others:
        hush()
        sys.stderr.write(
            f"{folder} is not used: {others[0]} in it belongs to another project. "
            "A folder of your own options holds only folders, such as conf/model\n"
        )
        return

    class OwnConf(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.prepend("own", f"file://{folder}", "main")

    Plugins.instance().register(OwnConf)


def run_task(config: DictConfig) -> None:
    """Train once, or one run of a sweep; workers of a sweep import this function by its name."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        run_job(config)
        return
    try:
        if hydra_config.sweeper.params and "hydra.mode=RUN" not in sys.argv:
            raise ConfigError(
                "hydra.sweeper.params has values for several runs: type -m to train them all, or write "
                "hydra.mode: MULTIRUN into the file that has them"
            )
        train_once(config, list_typed(hydra_config.overrides.task))
    except CnnLabError as error:
        fail(error)  # here, since Hydra adds a line of its own to what leaves this function


def train_once(config: DictConfig, overrides: list[str]) -> None:
    """Check the settings and train, in a new directory or in the one of a run that goes on."""
    settings = check_config(config)
    outputs = Path(settings["output_dir"])
    if settings["resume"]:
        resumed = plan_resume(settings["resume"], overrides, outputs, settings["trust"], settings["logger"])
        load_training()(*resumed)
        return
    label = clean_label(settings["label"] or make_label(overrides))
    with new_run_directory(outputs / "runs", f"{datetime.now():{STAMP}}-{label}") as run_dir:
        load_training()(settings, run_dir, label, overrides)


def load_training() -> Callable[..., Any]:
    """`cnn_lab.training.train`, for which PyTorch is imported: it takes seconds, and a mistake should not."""
    say("Loading PyTorch")
    from cnn_lab.training import train

    return train


if __name__ == "__main__":
    run_command(main)
