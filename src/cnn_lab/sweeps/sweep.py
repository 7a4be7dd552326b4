"""A sweep: its directory, its jobs, and what becomes of them, whatever launches them.

Nothing here imports torch.
"""

import contextlib
import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from cnn_lab.errors import CnnLabError, ConfigError, count, first_line
from cnn_lab.files import write_file
from cnn_lab.runs.directory import STAMP, SWEEP_RECORD, clean_label, make_directory, make_label
from cnn_lab.runs.lock import hold
from cnn_lab.runs.trust import check_inside
from cnn_lab.settings.config import check_config, flatten, list_typed
from cnn_lab.settings.meaning import fingerprint, meaning_of, settle
from cnn_lab.settings.typed import explain, quote
from cnn_lab.sweeps.advice import resume_command
from cnn_lab.sweeps.job import STOP, Job, record_failure
from cnn_lab.sweeps.launchers import arrange_launcher, check_devices, stop_launched
from cnn_lab.sweeps.report import report_sweep
from cnn_lab.sweeps.results import find_origin, find_runs, find_sweep, read_record
from cnn_lab.sweeps.watch import Watch
from cnn_lab.terminal.screen import Screen, shorten

ANYWHERE = ("place", "hardware", "showing")  # meanings of settings in which a resumed sweep may differ


@dataclass(eq=False)
class Sweep:
    """The directory of a sweep and the jobs that go into it.

    Args:
        kind: "grid" or "search"; one is not resumed as the other.
        swept: the keys that vary; of a search with what each is drawn from.
        config: Hydra's composed config, without the values of the keys that vary.
    """

    kind: str
    swept: dict[str, str | None]
    config: DictConfig
    context: HydraContext
    task_function: TaskFunction
    screen: Screen = field(default_factory=Screen)
    jobs: list[Job] = field(default_factory=list)
    total: int = 0
    ended_earlier: int = 0  # runs that a resumed search does not take up again
    path: Path = Path()
    origin: Path = Path()  # where it was begun
    _known: dict[str, tuple[Path, str]] = field(default_factory=dict)
    _taken: set[int] = field(default_factory=set)
    _arrangement: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError when a setting varies that all runs of a sweep share."""
        for key in self.swept:
            if meaning_of(key) == "place" and key != "data.root":
                raise ConfigError(
                    f"{key} has several values, and a sweep takes one for all its runs: type one"
                )

    @property
    def unit(self) -> str:
        """What its jobs are called."""
        return "trial" if self.kind == "search" else "run"

    @property
    def typed(self) -> list[str]:
        """The overrides that were typed, Hydra's own among them, which `-m` in front makes a sweep."""
        typed = [item for kind in ("hydra", "task") for item in list_typed(self.config.hydra.overrides[kind])]
        replaced = ("hydra.mode=", "sweep.resume=", "sweep.repeat=")
        repeat = self.config.sweep.repeat
        kept = [item for item in typed if not item.startswith(replaced)]
        return [*kept, f"sweep.repeat={quote(repeat)}"] if repeat else kept

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
            check_devices(settings["trainer"])
        except ConfigError as error:
            refusal = str(error)
        return Job(list(overrides), label, fingerprint(settings, self.swept), settings, refusal)

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
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        if resume is None:
            name = self.config.label or "_".join(key.rpartition(".")[2] for key in self.swept) or "sweep"
            self.path = make_directory(output_dir / "sweeps", f"{datetime.now():{STAMP}}-{clean_label(name)}")
            self.origin = self.path
        else:
            self.path = find_sweep(None if resume == "latest" else resume, output_dir)
            check_inside(self.path)
            earlier = read_record(self.path)
            self._check_same(earlier, settings)
            self.swept = earlier["swept"] | self.swept
            started = str(earlier.get("started", started))
            self.origin = find_origin(self.path)
        with hold(self.path):
            self._known = find_runs(self.path, self.swept)
            numbers = (path.name.partition("-")[0] for path in self.path.iterdir())
            self._taken = {int(number) for number in numbers if number.isdecimal()}
            record = {"kind": self.kind, "started": started, "typed": self.typed, "swept": self.swept}
            record |= {"settings": settings, "origin": str(self.origin)}
            write_file(self.path / SWEEP_RECORD, yaml.safe_dump(record, sort_keys=False))
            (self.path / STOP).unlink(missing_ok=True)
            with read_write(self.config):
                self.config.hydra.sweep.dir = str(self.path)
            yield

    def add(self, job: Job) -> None:
        """Give a job its directory: the one of a run with the same settings, unless that has to be repeated.

        Raises:
            ConfigError: when that run is still going on.
        """
        job.fingerprint = fingerprint(job.config, self.swept)  # with what varied before it was resumed, too
        known, status = self._known.get(job.fingerprint, (None, ""))
        if known and status == "running":
            raise ConfigError(f"{known} is still running: wait for it, or stop it first")
        if known and (status != "failed" or job.error):
            job.path, job.done = known, status not in ("interrupted", "failed")
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
        refused = [job for job in jobs if job.error]
        self._refuse(refused)
        waiting = [job for job in jobs if not job.error and not job.done]
        if not waiting or (refused and self.config.sweep.fail_fast):
            return
        config = copy.deepcopy(self.config)  # where a smaller batch than the next one is arranged
        arrangement = arrange_launcher(config.hydra.launcher, len(waiting), waiting[0].config)
        if arrangement != self._arrangement:
            self.screen.show(arrangement)
            self._arrangement = arrangement
        ended = self.ended_earlier + len(self.jobs) - len(waiting)
        with Watch([(job.path, job.config) for job in waiting], ended, self.total, self.screen):
            self._launch(waiting, config)
        for job in waiting:
            self._known[job.fingerprint] = (job.path, job.result()["status"])

    def _refuse(self, jobs: Sequence[Job]) -> None:
        """Record that these jobs' settings are refused, and say so, once for each reason."""
        reasons = defaultdict(list)
        for job in jobs:
            record_failure(job.path, job.overrides, job.config, job.error)
            reasons[job.error].append(job.path.name)
        for reason, (name, *others) in reasons.items():
            rejected = f"{name} and {len(others)} more are" if others else f"{name} is"
            self.screen.show(f"{rejected} rejected: {reason}", style="red")

    def _launch(self, jobs: Sequence[Job], config: DictConfig) -> None:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task_function, config=config
        )
        directory = f"hydra.sweep.dir={quote(str(self.path))}"
        overrides = [
            [*job.overrides, directory, f"hydra.sweep.subdir={quote(job.path.name)}"] for job in jobs
        ]
        # One after the other, each in a launch of its own: Hydra keeps what it has composed for a job, 1 MB,
        # until a launch is over. (By name: Hydra executes plugin modules again, so that classes differ.)
        size = 1 if type(launcher).__name__ == "BasicLauncher" else len(overrides)
        try:
            for start in range(0, len(overrides), size):
                launcher.launch(overrides[start : start + size], initial_job_idx=start)
        except Exception as error:  # a process that the system killed, a cluster that went away
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise CnnLabError(
                f"the launcher failed: {reason}\nContinue with: {resume_command(self.typed, self.path)}"
            ) from error

    def run_to_end(self, run: Callable[[], None], summarize: Callable[[], list[str]] = list) -> None:
        """Do `run`, report with what `summarize` adds, and, if it was interrupted, say how to go on.

        Raises:
            CnnLabError: when a run of a grid failed.
        """
        done = self.ended_earlier + sum(job.done for job in self.jobs)
        earlier = f"; {done} {'is' if done == 1 else 'are'} already complete" if done else ""
        self.screen.show(f"{count(self.total, self.unit)} in {shorten(self.path)}{earlier}", style="bold")
        try:
            run()
        except (KeyboardInterrupt, SystemExit):
            self._interrupt()
            raise
        self._finish(summarize())

    def _finish(self, remarks: Sequence[str]) -> None:
        results = [(job, job.result()) for job in self.jobs]
        failed = [(job, result) for job, result in results if result["status"] == "failed" and not job.error]
        refused = sum(bool(job.error) for job in self.jobs)
        missing = sum(result["status"] not in ("completed", "pruned", "failed") for _, result in results)
        report_sweep(self.path, self.screen, remarks)
        if missing or failed:
            self.screen.show(f"\nContinue with: {resume_command(self.typed, self.path)}")
        if not failed and not refused:
            return
        text = f"{len(failed) + refused} of {count(len(results), self.unit)} failed"
        text += f", {refused} of them rejected" if refused else ""
        text += f", {missing} did not finish" if missing else ""
        lines = self._list_reasons({job.path: first_line(result["error"]) for job, result in failed})
        text = "\n".join([f"{text}:" if lines else text, *lines])
        if self.kind == "grid":
            raise CnnLabError(text)
        self.screen.show(f"\n{text}", style="red")  # a failed trial of a search is one that was not good

    def _list_reasons(self, reasons: Mapping[Path, str]) -> list[str]:
        """A line for each reason why runs failed, with the runs that it holds for."""
        paths = defaultdict(list)
        for path, reason in reasons.items():
            paths[reason].append(path)
        lines = []
        for reason, found in paths.items():
            if len(found) == 1:
                lines.append(f"  {shorten(found[0])}: {reason}")
            elif len(found) == len(self.jobs):
                lines.append(f"  {reason} (all {count(len(found), self.unit)})")
            else:
                lines.append(f"  {reason} ({found[0].name} and {len(found) - 1} more)")
        return lines

    def _interrupt(self) -> None:
        stop_launched()
        done = self.ended_earlier + sum(
            job.result()["status"] in ("completed", "pruned") for job in self.jobs
        )
        report_sweep(self.path, self.screen)
        self.screen.show(
            f"\nInterrupted with {done} of {count(self.total, self.unit)} complete.", style="bold yellow"
        )
        self.screen.show(f"Continue with: {resume_command(self.typed, self.path)}")

    def _base_settings(self) -> dict[str, Any]:
        """What the settings that all jobs share say about their results, by dotted key."""
        plain: Any = OmegaConf.to_container(self.config, resolve=True)
        settings = flatten({key: value for key, value in plain.items() if key != "hydra"})
        return {key: value for key, value in settings.items() if meaning_of(key) not in ANYWHERE}

    def _check_same(self, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        if record.get("kind") != self.kind:
            raise ConfigError(
                f"{self.path} is a {record.get('kind')}, not a {self.kind}: it cannot be continued as one"
            )
        # A run of a sweep has one device, which is not in the records of older versions.
        earlier, settings = settle({"trainer.devices": 1, **record["settings"]}), settle(settings)
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
