"""What sweeps and runs have left: found, read, and compared.

Nothing here imports torch.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from cnn_lab.errors import ConfigError
from cnn_lab.runs.directory import SWEEP_RECORD
from cnn_lab.runs.record import read_result, read_score, read_start, read_status
from cnn_lab.runs.trust import check_inside, read_yaml
from cnn_lab.settings.config import MEASURED, flatten
from cnn_lab.settings.groups import show
from cnn_lab.settings.meaning import digest, identify
from cnn_lab.sweeps.names import name_settings
from cnn_lab.sweeps.verdict import Verdict, judge

DEPTH = 4  # of folders between outputs/ and a run
REPETITIONS = {"seed": "seeds", "data.fold": "folds"}


@dataclass(frozen=True)
class Record:
    """A run: its directory, what result.json holds, its true status, and its settings by dotted key.

    Attributes:
        identity: those settings that tell runs apart, see `identify`.
    """

    path: Path
    result: dict[str, Any]
    status: str
    settings: dict[str, Any]
    identity: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for runs of the same settings; without any it is the name of the directory."""
        return digest(self.identity) if self.settings else self.path.name

    @property
    def accuracy(self) -> float | None:
        """The best epoch's on validation images."""
        return self.measured("val/accuracy")

    def measured(self, name: str) -> float | None:
        """A number of result.json; of validation images that of the best epoch."""
        return (self.result.get("best") or {} if name.startswith("val/") else self.result).get(name)


@dataclass
class Setting:
    """Runs that differ in nothing but the seed or the fold, and the values by which they differ from others.

    Attributes:
        verdict: how its completed runs compare with the best setting's; None where that cannot be said.
    """

    values: dict[str, Any]
    runs: list[Record]
    verdict: Verdict | None = None

    @property
    def counted(self) -> list[Record]:
        """The completed runs, of repeated ones the last; of a setting without any, its other runs."""
        runs = [run for run in self.runs if run.status == "completed"] or self.runs
        return list({run.fingerprint: run for run in runs}.values())

    def list_values(self, name: str) -> list[float]:
        """What the runs that count have measured; a pruned run has a validation accuracy too."""
        return [value for run in self.counted if (value := run.measured(name)) is not None]

    def measure(self, name: str) -> tuple[float, float | None, int] | None:
        """Mean, standard deviation (None for a single run) and count over the runs that count."""
        values = self.list_values(name)
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)

    def find_best_run(self) -> Record | None:
        """Of the completed runs the best on validation images, where there were some."""
        scores = [
            (score, run)
            for run in self.runs
            if run.status == "completed" and (score := read_score(run.result)) is not None
        ]
        return max(scores, key=itemgetter(0))[1] if scores else None

    @property
    def completed(self) -> int:
        """How many of the runs are."""
        return sum(run.status == "completed" for run in self.runs)


def find_sweep(path: str | Path | None, output_dir: Path) -> Path:
    """The directory of a sweep; None is the one in `output_dir` that was started last.

    Raises:
        ConfigError: when there is none.
    """
    if path is None:
        sweeps = sorted(file.parent for file in output_dir.glob(f"sweeps/*/{SWEEP_RECORD}"))
        if not sweeps:
            raise ConfigError(f"{output_dir} contains no sweep; start one with -m")
        return max(sweeps, key=lambda sweep: read_start(read_record(sweep)))
    path = Path(path).expanduser().absolute()
    if not (path / SWEEP_RECORD).is_file():
        raise ConfigError(f"{path} is not a sweep's folder: it has no {SWEEP_RECORD}")
    return path


def read_record(sweep: Path) -> dict[str, Any]:
    """What sweep.yaml holds; empty parts where they cannot be read."""
    try:
        record = read_yaml(sweep / SWEEP_RECORD)
    except ConfigError:
        record = {}
    parts = {"typed": list, "swept": dict, "settings": dict}
    return record | {name: kind() for name, kind in parts.items() if not isinstance(record.get(name), kind)}


def find_origin(sweep: Path) -> Path:
    """Where a sweep was begun, which its trials name; it may have been moved since."""
    return Path(str(read_record(sweep).get("origin", sweep)))


def find_runs(sweep: Path, swept: Collection[str]) -> dict[str, tuple[Path, str]]:
    """The latest run of each fingerprint in a sweep of these keys, with its status."""
    found = [_read(file.parent, swept) for file in sweep.glob("*/result.json")]
    found.sort(key=lambda record: read_start(record.result))
    return {record.fingerprint: (record.path, record.status) for record in found}


def collect(paths: Iterable[Path]) -> list[Record]:
    """The runs in these directories, at any depth that this project makes; of repeated ones the last.

    Raises:
        ConfigError: when there are none, or a link leads out of one.
    """
    paths = list(paths)
    found: dict[tuple[Path, str], Record] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; give a sweep's, a run's, or one that contains some")
        if (path / SWEEP_RECORD).exists():  # the report is written into it
            check_inside(path)
        files = {file for depth in range(DEPTH) for file in path.glob("*/" * depth + "result.json")}
        swept = {folder: read_record(folder)["swept"] for folder in {file.parent.parent for file in files}}
        records = [_read(file.parent, swept[file.parent.parent]) for file in files]
        for record in sorted(records, key=lambda item: read_start(item.result)):
            is_of_sweep = (record.path.parent / SWEEP_RECORD).exists()
            found[record.path.parent, record.fingerprint if is_of_sweep else record.path.name] = record
    if not found:
        raise ConfigError(f"no run to report on in {', '.join(map(str, paths))}")
    return sorted(found.values(), key=place_of)


def compare(records: Sequence[Record]) -> tuple[list[str], list[Setting]]:
    """The keys in which the runs differ, and their settings, the best by `find_choice` first.

    Settings without a completed run come last, whatever they reached.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        shared = {key: value for key, value in record.identity.items() if key not in REPETITIONS}
        groups[digest(shared)].append(record)
    keys, values = name_settings([runs[0] for runs in groups.values()])
    found = [Setting(*pair) for pair in zip(values, groups.values(), strict=True)]

    metric, sign = find_choice(records)

    def rank(setting: Setting) -> tuple[bool, float]:
        measured = setting.measure(metric)
        return not setting.completed, -sign * measured[0] if measured else math.inf

    settings = sorted(found, key=rank)
    scores = [
        [sign * value for value in item.list_values(metric)] if item.completed else [] for item in settings
    ]
    for setting, verdict in zip(settings, judge(scores), strict=True):
        setting.verdict = verdict
    return keys, settings


def find_choice(records: Iterable[Record]) -> tuple[str, int]:
    """What chose the best checkpoints, as in "val/f1", and 1 if more of it is better, else -1.

    Where runs do not agree, it is the validation accuracy.
    """
    found = {(by["metric"], by["mode"]) for record in records if (by := record.result.get("best_by"))}
    metric, mode = found.pop() if len(found) == 1 else ("val/accuracy", "max")
    return metric, 1 if mode == "max" else -1


def find_unit(metric: str) -> tuple[str, int]:
    """In what differences of a metric are told, and how many of that is 1."""
    return ("points", 100) if metric.endswith("/accuracy") else (metric, 1)


def list_metrics(settings: Iterable[Setting]) -> list[str]:
    """What was measured besides loss and accuracy, as in "val/f1" and "test/f1"."""
    best = (run.result.get("best") or {} for setting in settings for run in setting.runs)
    names = dict.fromkeys(name[4:] for found in best for name in found if name.startswith("val/"))
    return [f"{split}/{name}" for name in names if name not in MEASURED for split in ("val", "test")]


def name_repetitions(settings: Iterable[Setting], name: str = "val/accuracy") -> str:
    """Over what means are taken: "3 seeds", "5 folds", "2 to 10 runs"; empty where no setting has two."""
    repeated = [setting for setting in settings if len(setting.list_values(name)) > 1]
    if not repeated:
        return ""
    counts = [len(setting.list_values(name)) for setting in repeated]
    varied = {key for key in REPETITIONS for setting in repeated if len(list_distinct(setting.runs, key)) > 1}
    noun = REPETITIONS[varied.pop()] if len(varied) == 1 else "runs"
    return f"{' to '.join(map(str, sorted({min(counts), max(counts)})))} {noun}"


def list_distinct(records: Iterable[Record], key: str) -> list[int]:
    """The different values of a setting that is a number, in order."""
    return sorted({value for record in records if isinstance(value := record.settings.get(key), int)})


def describe(setting: Setting, names: Mapping[str, str]) -> str:
    """A setting's values in a line, with these names of the keys."""
    words = [f"{names[key]} {show(value)}" for key, value in setting.values.items()]
    return ", ".join(words) or "these settings"


def place_of(record: Record) -> tuple[Path, int, str]:
    """What runs are sorted by: the runs of a sweep by their number, and single runs by their time stamp."""
    number = record.path.name.partition("-")[0]
    return record.path.parent, int(number) if number.isdecimal() else 0, record.path.name


def _read(path: Path, swept: Collection[str]) -> Record:
    check_inside(path)
    result = read_result(path)
    try:
        settings = flatten(read_yaml(path / "config.yaml"))
    except ConfigError:  # killed before it had written one, or none that a run writes
        settings = {}
    return Record(path, result, read_status(path, result), settings, identify(settings, swept))
