"""A sweep: its directory, its jobs, and what becomes of them, whatever launches them.

A job is one run of a sweep. Nothing here imports torch.
"""

import contextlib
import itertools
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.directory import NO_SETTINGS, STAMP, SWEEP_RECORD, clean_label, make_directory, make_label
from cnn_lab.runs.lock import hold
from cnn_lab.runs.record import read_result, read_status, replace_file
from cnn_lab.runs.trust import check_inside, read_yaml
from cnn_lab.settings.config import check_config, flatten, list_typed
from cnn_lab.settings.meaning import fingerprint
from cnn_lab.sweeps.job import STOP, record_failure
from cnn_lab.sweeps.launchers import arrange_launcher, check_launcher, stop_launched
from cnn_lab.sweeps.report import report_sweep
from cnn_lab.sweeps.watch import Watch
from cnn_lab.terminal.command import explain
from cnn_lab.terminal.screen import Screen, shorten


@dataclass
class Job:
    """A run to come; `error` says why its settings are refused, if they are."""

    overrides: list[str]
    label: str
    fingerprint: str
    config: dict[str, Any]
    error: str = ""
    path: Path = Path()
    done: bool = False

    def result(self) -> dict[str, Any]:
        """What the run has recorded, with its true status; it may be "not started"."""
        result = read_result(self.path)
        return {**result, "status": read_status(self.path, result)} if result else {"status": "not started"}


class Sweep:
    """The directory of a sweep and the jobs that go into it.

    Args:
        kind: "grid" or "search"; one is not resumed as the other.
        swept: the keys that vary; of a search with what each is drawn from.
        typed: the overrides that were typed.
        config: Hydra's composed config, without the values of the keys that vary.
    """

    def __init__(
        self,
        kind: str,
        swept: Mapping[str, str | None],
        typed: Sequence[str],
        config: DictConfig,
        context: HydraContext,
        task_function: TaskFunction,
    ) -> None:
        self.kind = kind
        self.unit = "trials" if kind == "search" else "runs"
        self.swept = dict(swept)
        self.typed = list(typed)
        self.config = config
        self.context = context
        self.task_function = task_function
        self.screen = Screen()
        self.jobs: list[Job] = []
        self.total = 0
        self.ended_earlier = 0  # runs that a resumed search does not take up again
        self.path = Path()
        self._known: dict[str, tuple[Path, str]] = {}
        self._taken: set[int] = set()
        self._arrangement = ""

    def check(self, overrides: Sequence[str]) -> Job:
        """Compose and check the settings of a job. Settings that make no run are noted in the job.

        Raises:
            ConfigError: for a key or an option that there is not.
        """
        label = make_label([item for item in overrides if item.partition("=")[0] in self.swept])
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error)) from error
        own = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
        settings: Any = OmegaConf.to_container(own)
        refusal = ""
        try:
            settings = check_config(own)
            _check_devices(settings["trainer"])
        except ConfigError as error:
            refusal = str(error)
        return Job(list(overrides), label, fingerprint(settings), settings, refusal)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Make the sweep's directory, or find the one to go on with, and hold it during the block.

        Raises:
            ConfigError: when that is none, or one of another kind or with other settings.
            CnnLabError: when it is in use.
        """
        resume = self.config.sweep.resume
        output_dir = Path(self.config.output_dir).expanduser().absolute()
        settings = self._base_settings()
        if resume is None:
            name = self.config.label or "_".join(key.rpartition(".")[2] for key in self.swept) or "sweep"
            self.path = make_directory(output_dir / "sweeps", f"{datetime.now():{STAMP}}-{clean_label(name)}")
        else:
            self.path = find_sweep(None if resume == "latest" else resume, output_dir)
            check_inside(self.path)
            self._check_same(read_record(self.path), settings)
        with hold(self.path):
            self._known = _find_runs(self.path)
            numbers = (path.name.partition("-")[0] for path in self.path.iterdir())
            self._taken = {int(number) for number in numbers if number.isdecimal()}
            record = {"kind": self.kind, "typed": self.typed, "swept": self.swept, "settings": settings}
            replace_file(self.path / SWEEP_RECORD, yaml.safe_dump(record, sort_keys=False))
            (self.path / STOP).unlink(missing_ok=True)
            with read_write(self.config):
                self.config.hydra.sweep.dir = str(self.path)
            yield

    def add(self, job: Job) -> None:
        """Give a job its directory: the one of a run with the same settings, if that is not to be repeated.

        Raises:
            ConfigError: when that run is still going on.
        """
        known, status = self._known.get(job.fingerprint, (None, ""))
        if known and status == "running":
            raise ConfigError(f"{known} is still running; wait for it, or stop it first")
        if known and status != "failed":
            job.path, job.done = known, status != "interrupted"
        else:
            number = next(number for number in itertools.count(len(self.jobs)) if number not in self._taken)
            self._taken.add(number)
            job.path = self.path / f"{number}-{job.label}"
        self.jobs.append(job)

    def run(self, jobs: Sequence[Job]) -> None:
        """Launch those of the jobs that are not done, and show them.

        Raises:
            CnnLabError: when the launcher, not a run, failed.
        """
        for job in jobs:
            if job.error:
                record_failure(job.path, job.overrides, job.config, job.error)
                self.screen.show(f"{job.path.name} is refused: {job.error}", style="red")
        waiting = [job for job in jobs if not job.error and not job.done]
        refused = any(job.error for job in jobs)
        if not waiting or (refused and self.config.sweep.fail_fast):
            return
        arrangement = arrange_launcher(self.config.hydra.launcher, len(waiting), waiting[0].config)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=self.config
        )
        directory = f"hydra.sweep.dir={_quote(str(self.path))}"
        overrides = [
            [*job.overrides, directory, f"hydra.sweep.subdir={_quote(job.path.name)}"] for job in waiting
        ]
        if arrangement != self._arrangement:
            self.screen.show(arrangement)
            self._arrangement = arrangement
        # One after the other, each in a launch of its own: Hydra keeps what it has composed for a job, 1 MB,
        # until a launch is over. (By name: Hydra executes plugin modules again, so that classes differ.)
        size = 1 if type(launcher).__name__ == "BasicLauncher" else len(overrides)
        runs = [(job.path, job.config) for job in waiting]
        ended = self.ended_earlier + len(self.jobs) - len(waiting)
        with Watch(runs, ended, self.total, self.screen):
            try:
                for start in range(0, len(overrides), size):
                    launcher.launch(overrides[start : start + size], initial_job_idx=start)
            except Exception as error:  # a process that the system killed, a cluster that went away
                reason = f"{type(error).__name__}: {_first_line(error)}"
                raise CnnLabError(
                    f"the launcher failed: {reason}\nGo on with: {self._resume_command()}"
                ) from error
        for job in waiting:
            self._known[job.fingerprint] = (job.path, job.result()["status"])

    def run_to_end(self, run: Callable[[], None], summarize: Callable[[], list[str]] = list) -> None:
        """Do `run`, report with what `summarize` adds, and, if it was interrupted, say how to go on.

        Raises:
            CnnLabError: when a run of a grid failed.
        """
        done = self.ended_earlier + sum(job.done for job in self.jobs)
        going_on = f"; {done} are done already" if done else ""
        self.screen.show(f"{self.total} {self.unit} in {shorten(self.path)}{going_on}", style="bold")
        try:
            run()
        except (KeyboardInterrupt, SystemExit):
            self._interrupt()
            raise
        self._finish(summarize())

    def _finish(self, remarks: Sequence[str]) -> None:
        results = [(job, job.result()) for job in self.jobs]
        failed = [(job, result) for job, result in results if result["status"] == "failed"]
        missing = sum(result["status"] in ("interrupted", "not started") for _, result in results)
        report_sweep(self.path, self.screen, remarks)
        if missing or any(not job.error for job, _ in failed):
            self.screen.show(f"\nGo on with: {self._resume_command()}")
        if failed and self.kind == "grid":  # a failed trial of a search is one that was not good
            lines = [f"  {shorten(job.path)}: {_first_line(result['error'])}" for job, result in failed]
            rest = f", {missing} did not finish" if missing else ""
            raise CnnLabError("\n".join([f"{len(failed)} of {len(results)} runs failed{rest}:", *lines]))

    def _interrupt(self) -> None:
        stop_launched()
        done = self.ended_earlier + sum(
            job.result()["status"] in ("completed", "pruned") for job in self.jobs
        )
        report_sweep(self.path, self.screen)
        self.screen.show(f"\nInterrupted: {done} of {self.total} {self.unit} are done.", style="bold yellow")
        self.screen.show(f"Go on with: {self._resume_command()}")

    def _resume_command(self) -> str:
        kept = [item for item in self.typed if not item.startswith("sweep.resume=")]
        hydra = [
            item
            for item in list_typed(self.config.hydra.overrides.hydra)
            if not item.startswith("hydra.mode=")
        ]
        words = [
            "python",
            shorten(Path(sys.argv[0]).absolute()),
            "-m",
            *hydra,
            *kept,
            f"sweep.resume={shorten(self.path)}",
        ]
        return shlex.join(words)

    def _base_settings(self) -> dict[str, Any]:
        """The settings that all jobs share, by dotted key."""
        plain = OmegaConf.to_container(self.config, resolve=True)
        settings = {key: value for key, value in plain.items() if key not in ("hydra", *NO_SETTINGS)}
        return flatten(settings)

    def _check_same(self, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        if record.get("kind") != self.kind:
            raise ConfigError(
                f"{self.path} is a {record.get('kind')}, not a {self.kind}: it cannot be resumed as one"
            )
        earlier = record["settings"]
        vary = {*self.swept, *record["swept"]}
        if self.kind == "search":  # whose trials can be compared only if all were drawn from the same
            earlier, settings, vary = {**earlier, **record["swept"]}, {**settings, **self.swept}, set()
        for key in sorted({*earlier, *settings}):
            if any(key == name or key.startswith(f"{name}.") for name in vary):
                continue
            if earlier.get(key) != settings.get(key):
                raise ConfigError(
                    f"{self.path} was run with {key}={earlier.get(key)}, now it is {settings.get(key)}: "
                    "type the same again, or leave sweep.resume out to start a new sweep"
                )


def sweep_grid(
    typed: Sequence[str], config: DictConfig, context: HydraContext, task_function: TaskFunction
) -> None:
    """Run a job for every combination of the values in `typed`, Hydra's overrides, and report.

    Raises:
        ConfigError: when every job's settings are refused, before anything is written.
        CnnLabError: when a run failed.
    """
    choices = expand(typed, context)
    swept = {key: None for key, values in choices.items() if len(values) > 1}
    sweep = Sweep("grid", swept, list_typed(config.hydra.overrides.task), config, context, task_function)
    with sweep.screen.console.status("checking the settings of all runs"):
        jobs = [sweep.check(overrides) for overrides in itertools.product(*choices.values())]
    good = [job for job in jobs if not job.error]
    if not good:
        raise ConfigError(jobs[0].error)
    check_launcher(config.hydra.launcher, good[0].config)
    with sweep.open():
        for job in jobs:
            sweep.add(job)
        sweep.total = len(jobs)
        sweep.run_to_end(lambda: sweep.run(jobs))


def expand(typed: Sequence[str], context: HydraContext) -> dict[str, list[str]]:
    """The overrides of each key, one for each value of it.

    Raises:
        ConfigError: for an interval, of which there are no single values.
    """
    choices: dict[str, list[str]] = {}
    for override in parse(typed, context):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line} has no single values to go through; type a list of them, or search "
                "with hydra/sweeper=optuna"
            )
    return choices


def parse(typed: Sequence[str], context: HydraContext) -> list[Override]:
    """Hydra's parsed overrides."""
    return OverridesParser.create(config_loader=context.config_loader).parse_overrides(list(typed))


def find_sweep(path: str | Path | None, output_dir: Path) -> Path:
    """The directory of a sweep; None is the latest one in `output_dir`.

    Raises:
        ConfigError: when there is none.
    """
    if path is None:
        sweeps = sorted(file.parent for file in output_dir.glob(f"sweeps/*/{SWEEP_RECORD}"))
        if not sweeps:
            raise ConfigError(f"there is no sweep in {output_dir}; start one with -m")
        return sweeps[-1]
    path = Path(path).expanduser().absolute()
    if not (path / SWEEP_RECORD).is_file():
        raise ConfigError(f"{path} is not the directory of a sweep: it has no {SWEEP_RECORD}")
    return path


def read_record(path: Path) -> dict[str, Any]:
    """What sweep.yaml holds; an empty one where it cannot be read."""
    try:
        return read_yaml(path / SWEEP_RECORD)
    except ConfigError:
        return {"kind": None, "swept": {}, "settings": {}}


def _check_devices(trainer: Mapping[str, Any]) -> None:
    for name in ("devices", "num_nodes"):
        if trainer.get(name, 1) not in (1, "1"):
            raise ConfigError(
                f"trainer.{name}={trainer[name]} does not go with -m: each run of a sweep gets one device. "
                f"Type trainer.{name}=1, and hydra/launcher=joblib to use all devices, or train without -m"
            )


def _find_runs(sweep: Path) -> dict[str, tuple[Path, str]]:
    """The latest run of each fingerprint, with its status."""
    found = [(path.parent, read_result(path.parent)) for path in sweep.glob("*/result.json")]
    found.sort(key=lambda item: item[1].get("started", ""))
    return {result.get("fingerprint", ""): (path, read_status(path, result)) for path, result in found}


def _first_line(text: Any) -> str:
    return str(text).partition("\n")[0]


def _quote(text: str) -> str:
    """As a quoted value of Hydra's grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
