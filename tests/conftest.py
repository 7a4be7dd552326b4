"""What the tests share: the user's commands, without network, and runs that several tests look at."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from cnn_lab.runs.record import read_rows
from cnn_lab.settings.config import PROJECT
from cnn_lab.terminal.command import FULL_ERROR
from forked import run_forked

# No network, and one thread a process, since two workers test side by side.
ENVIRONMENT = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
    "OMP_NUM_THREADS": "1",
}
os.environ["OMP_NUM_THREADS"] = ENVIRONMENT["OMP_NUM_THREADS"]  # also of what commands are forked from
WAITING = re.compile(r"^[A-Z][\w ]+ \.\.\.\n", re.MULTILINE)  # what a command says until it has more to say
SMALL_DATA = ["data.train_size=4000", "data.val_size=500", "trainer.limit_test_batches=5"]
FAST = [*SMALL_DATA, "trainer.accelerator=cpu", "trainer.limit_train_batches=4"]

Command = Callable[..., subprocess.CompletedProcess[str]]


def run_script(
    name: str, *arguments: str, cwd: Path = PROJECT, fresh: bool = False, **environment: str
) -> Any:
    """Run a script as a user does, without network and without a terminal.

    What it says while it is silent for long is left out of its standard error. With `fresh`, or where
    processes of its own are started, in an interpreter that starts from nothing.
    """
    inherited = {
        key: value for key, value in os.environ.items() if key != FULL_ERROR
    }  # set by commands run here
    script, variables = PROJECT / "scripts" / name, {**inherited, **ENVIRONMENT, **environment}
    if not fresh and not any("hydra/launcher=" in argument for argument in arguments):
        done = run_forked(script, arguments, cwd, variables)
    else:
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    done.stderr = WAITING.sub("", done.stderr)
    return done


def start_script(name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a script as from a terminal, where Ctrl+C works, also if what runs the tests ignores it."""
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / name), *arguments],
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        text=True,
        **options,
    )


def train_command(*arguments: str, **options: Any) -> Any:
    """Run scripts/train.py."""
    return run_script("train.py", *arguments, **options)


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes."""
    earlier, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (earlier, most))


@contextlib.contextmanager
def open_browser(*arguments: str) -> Iterator[Any]:
    """A Chromium without a window that logs what it asks for.

    Without one here the test is skipped, and fails where CI=true says that there should be one.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not (browser and driver and importlib.util.find_spec("selenium")):
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up("needs chromium, chromedriver and selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        opened = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield opened
        finally:
            opened.quit()


def read_readme() -> str:
    """README's text. What is tested about it is skipped in somebody's copy with a README of their own."""
    text = (PROJECT / "README.md").read_text()
    if not text.startswith("# cnn-lab\n"):
        pytest.skip("README.md is not this project's", allow_module_level=True)
    return text


def only_run(output_dir: Path) -> Path:
    """The one run directory in `output_dir`."""
    (run,) = (output_dir / "runs").iterdir()
    return run


def read_result(run: Path) -> dict[str, Any]:
    """A run's result.json."""
    return json.loads((run / "result.json").read_text())


def compose_config(*overrides: str) -> DictConfig:
    """The config that these overrides give."""
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


class TrainedRun:
    """A finished run on a part of MNIST: what its command printed, and its directory."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        arguments = [*SMALL_DATA, "trainer.accelerator=cpu", "trainer.max_epochs=3"]
        arguments += ["model.channels=[8,16]", "trainer.log_every_n_steps=10", f"output_dir={output_dir}"]
        self.process = train_command(*arguments, fresh=True)
        assert self.process.returncode == 0, self.process.stderr
        self.path = only_run(output_dir)
        self.result = read_result(self.path)

    def read_rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.csv."""
        return read_rows(self.path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """One run that every test of its traces looks at."""
    return TrainedRun(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(autouse=True)
def keep_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command that is called in this process sets for itself is gone after the test."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
