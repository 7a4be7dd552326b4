"""Train a network, or with -m one for every combination of values. --help lists the settings."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cnn_lab.command import report, run_command
from cnn_lab.config import check_config
from cnn_lab.errors import CnnLabError
from cnn_lab.runs import name_run, new_run_directory


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    try:
        settings = check_config(config)
        from cnn_lab.training import train  # torch takes seconds to import, and a mistake should not

        hydra_config = HydraConfig.get()
        overrides = list(hydra_config.overrides.task)
        sweep, name, label = name_run(settings["label"], overrides, hydra_config)
        with new_run_directory(sweep or Path(settings["output_dir"], "runs"), name) as run_dir:
            train(settings, run_dir, label, overrides)
    except CnnLabError as error:
        report(error)


if __name__ == "__main__":
    run_command(main)
