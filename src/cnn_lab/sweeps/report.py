"""What runs have in common, what differs, and which settings were best: a table, files and a plot.

Nothing here imports torch.
"""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cnn_lab.errors import ConfigError
from cnn_lab.runs.directory import SWEEP_RECORD
from cnn_lab.runs.record import read_result, read_status
from cnn_lab.runs.trust import check_inside, read_yaml
from cnn_lab.settings.config import flatten
from cnn_lab.terminal.screen import Screen, shorten

# Where a run went, and on what; a difference in these is none between settings.
NOT_COMPARED = ("seed", "label", "output_dir", "data.root", "trainer.devices", "trainer.accelerator")
ROWS_SHOWN = 30
DEPTH = 4  # of folders between outputs/ and a run


@dataclass(frozen=True)
class Record:
    """A run: its directory, what result.json holds, its true status, and its settings by dotted key."""

    path: Path
    result: dict[str, Any]
    status: str
    settings: dict[str, Any]

    @property
    def accuracy(self) -> float | None:
        """The best on validation images."""
        return (self.result.get("best") or {}).get("val/accuracy")


@dataclass(frozen=True)
class Setting:
    """The runs that differ in nothing but the seed, and the values by which they differ from others."""

    values: dict[str, Any]
    runs: list[Record]

    def measure(self, name: str) -> tuple[float, float | None, int] | None:
        """Mean, standard deviation (None for a single run) and count over the completed runs.

        Of a setting without any, over its other runs: a pruned run has a validation accuracy too.
        """
        runs = [run for run in self.runs if run.status == "completed"] or self.runs
        found = [run.accuracy if name == "val/accuracy" else run.result.get(name) for run in runs]
        values = [value for value in found if value is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)

    @property
    def completed(self) -> int:
        """How many of the runs are."""
        return sum(run.status == "completed" for run in self.runs)


def collect(paths: Iterable[Path]) -> list[Record]:
    """The runs in these directories, at any depth that this project makes; of repeated ones the last.

    Raises:
        ConfigError: when there are none, or a link leads out of one.
    """
    paths = list(paths)
    found: dict[tuple[Path, str], Record] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a directory; give a sweep's, a run's, or one that holds such")
        if (path / SWEEP_RECORD).exists():  # the report is written into it
            check_inside(path)
        files = {file for depth in range(DEPTH) for file in path.glob("*/" * depth + "result.json")}
        records = sorted(
            (_read(file.parent) for file in files), key=lambda item: item.result.get("started", "")
        )
        for record in records:
            name = record.result.get("fingerprint") if (record.path.parent / SWEEP_RECORD).exists() else None
            found[record.path.parent, name or record.path.name] = record
    if not found:
        raise ConfigError(f"there is no run to report on in {', '.join(map(str, paths))}")
    return sorted(found.values(), key=_order)


def _order(record: Record) -> tuple[Path, int, str]:
    """As the runs of a sweep are numbered, and single runs by their time stamp."""
    number = record.path.name.partition("-")[0]
    return record.path.parent, int(number) if number.isdecimal() else 0, record.path.name


def compare(records: Sequence[Record]) -> tuple[list[str], list[Setting]]:
    """The keys in which the runs differ, and their settings, the best on validation images first.

    Settings without a completed run come last, whatever they reached.
    """
    flats = [_name_targets(record.settings) for record in records]
    keys = _find_differences(flats)
    groups: dict[str, Setting] = {}
    for record, flat in zip(records, flats, strict=True):
        values = {key: flat[key] for key in keys if key in flat}
        groups.setdefault(json.dumps(values, sort_keys=True), Setting(values, [])).runs.append(record)

    def rank(setting: Setting) -> tuple[bool, float]:
        accuracy = setting.measure("val/accuracy")
        return not setting.completed, -accuracy[0] if accuracy else 1.0

    return keys, sorted(groups.values(), key=rank)


def report_sweep(sweep: Path, screen: Screen, remarks: Sequence[str] = ()) -> None:
    """Print the report of a sweep and write its files beside the runs; nothing where no run has begun."""
    try:
        records = collect([sweep])
    except ConfigError:
        return
    write_report(records, sweep, screen, sweep.name, remarks)


def write_report(
    records: Sequence[Record], folder: Path, screen: Screen, title: str, remarks: Sequence[str] = ()
) -> None:
    """Print the report and write report.csv, report.md and report.png into `folder`."""
    from cnn_lab.pictures.figures import draw_report

    keys, settings = compare(records)
    names = shorten_keys(keys)
    head = [*(names[key] for key in keys), *COLUMNS]
    rows = [[*(show(setting.values.get(key)) for key in keys), *_cells(setting)] for setting in settings]
    remarks = [*judge(settings, names), *_name_data(records), *remarks, *_list_unfinished(records)]

    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(records, keys, folder / "report.csv")
    (folder / "report.md").write_text(_as_markdown(title, head, rows, remarks), encoding="utf-8")
    draw_report(settings, names, folder / "report.png", title)

    screen.show("")
    screen.show(_as_table(head, rows[:ROWS_SHOWN]))
    if len(rows) > ROWS_SHOWN:
        screen.show(f"... and {len(rows) - ROWS_SHOWN} more settings in report.md")
    for remark in remarks:
        screen.show(remark)
    screen.show(f"\nReport: {shorten(folder / 'report.png')}, report.csv, report.md")


def judge(settings: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    """Which setting is best, and from which others the runs cannot tell it apart."""
    measured = [(item, item.measure("val/accuracy")) for item in settings if item.completed]
    ranked = [(item, found) for item, found in measured if found]
    if len(ranked) < 2:
        return []
    (best, (mean, spread, count)), others = ranked[0], ranked[1:]
    text = f"Best on validation images: {describe(best, names)}."
    if spread is None:
        return [text, f"Each setting has {count} run: how far seeds differ is not known; add seed=0,1,2."]
    close = [
        item
        for item, (other, other_spread, _) in others
        if other_spread is not None and mean - other <= spread + other_spread
    ]
    if not close:
        return [f"{text} Its lead over all others is larger than the spread over seeds."]
    listed = "; ".join(describe(item, names) for item in close[:3])
    rest = f" and {len(close) - 3} more" if len(close) > 3 else ""
    return [f"{text} Its lead is within the spread over seeds of: {listed}{rest}."]


def describe(setting: Setting, names: Mapping[str, str]) -> str:
    """A setting's values in a line."""
    return (
        ", ".join(f"{names[key]} {show(value)}" for key, value in setting.values.items()) or "these settings"
    )


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, or all of it where two end alike."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def show(value: Any) -> str:
    """A value as it is typed on the command line."""
    return (
        value if isinstance(value, str) else "" if value is None else json.dumps(value, separators=(",", ":"))
    )


COLUMNS = ("runs", "val accuracy", "test accuracy", "parameters", "seconds", "status")


def _cells(setting: Setting) -> list[str]:
    parameters = setting.measure("parameters")
    seconds = setting.measure("seconds")
    counts = Counter(run.status for run in setting.runs)
    return [
        str(len(setting.runs)),
        _with_spread(setting.measure("val/accuracy")),
        _with_spread(setting.measure("test/accuracy")),
        f"{parameters[0]:,.0f}" if parameters else "",
        f"{seconds[0]:.1f}" if seconds else "",
        ", ".join(f"{count} {status}" if len(counts) > 1 else status for status, count in counts.items()),
    ]


def _with_spread(measured: tuple[float, float | None, int] | None) -> str:
    if measured is None:
        return ""
    mean, spread, _ = measured
    return f"{mean:.2%}" if spread is None else f"{mean * 100:.2f} ± {spread * 100:.2f} %"


def _read(path: Path) -> Record:
    check_inside(path)
    result = read_result(path)
    try:
        settings = flatten(read_yaml(path / "config.yaml"))
    except ConfigError:  # killed before it had written one, or none that a run writes
        settings = {}
    return Record(path, result, read_status(path, result), settings)


def _name_targets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With `optimizer: Adam` for `optimizer._target_: torch.optim.Adam`."""
    return {
        key.removesuffix("._target_"): str(value).rpartition(".")[2] if key.endswith("._target_") else value
        for key, value in settings.items()
        if key not in NOT_COMPARED and not key.startswith("sweep.")
    }


def _find_differences(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys with several values; below a group that has several targets, several with the same target."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    varying = []
    for key in keys:
        group = key.partition(".")[0]
        seen: dict[Any, set[str]] = {}
        for flat in flats:
            if key in flat and flat[key] != "auto":  # which a run replaces by what it found, once it begins
                target = flat.get(group) if group != key else None
                seen.setdefault(str(target), set()).add(json.dumps(flat[key], sort_keys=True))
        if any(len(values) > 1 for values in seen.values()):
            varying.append(key)
    return varying


def _name_data(records: Sequence[Record]) -> list[str]:
    """What was trained on, where it is not all of MNIST for all."""
    found = sorted({record.result["dataset"]["name"] for record in records if "dataset" in record.result})
    return [] if found in ([], ["MNIST"]) else [f"Trained on: {', '.join(found)}."]


def _list_unfinished(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in records:
        if record.status in ("completed", "pruned"):
            continue
        epochs = record.result.get("epochs")
        error = str(record.result.get("error") or "").partition("\n")[0]
        reason = error or (f"after epoch {epochs}" if epochs else "in its first epoch")
        lines.append(f"{record.status}: {record.path.name}: {reason}")
    return lines


def _write_csv(records: Sequence[Record], keys: Sequence[str], path: Path) -> None:
    measured = ("parameters", "epochs", "seconds", "test/accuracy", "test/loss")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "status", *keys, "seed", "val/accuracy", *measured, "error"])
        for record in records:
            flat = _name_targets(record.settings)
            writer.writerow(
                [
                    record.path.name,
                    record.status,
                    *(show(flat.get(key)) for key in keys),
                    record.settings.get("seed"),
                    record.accuracy,
                    *(record.result.get(name) for name in measured),
                    record.result.get("error"),
                ]
            )


def _as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="left" if name == "status" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _as_markdown(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]
) -> str:
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    note = (
        "Accuracies are means ± standard deviations over the runs of a setting, which differ in their seed."
    )
    return "\n".join([f"# {title}", "", *lines, "", note, "", *(f"- {remark}" for remark in remarks)]) + "\n"
