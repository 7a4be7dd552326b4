"""The report of runs: what differs and which settings were best, as a table, in words and in files.

Nothing here imports torch.
"""

import csv
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from cnn_lab.errors import ConfigError
from cnn_lab.settings.config import PROJECT
from cnn_lab.sweeps.results import (
    Record,
    Setting,
    collect,
    compare,
    describe,
    name_targets,
    shorten_keys,
    show,
)
from cnn_lab.terminal.screen import Screen, shorten

COLUMNS = ("runs", "val accuracy", "test accuracy", "parameters", "seconds", "status")
ROWS_SHOWN = 30
NAMES_SHOWN = 3


def report_sweep(sweep: Path, screen: Screen, remarks: Sequence[str] = ()) -> None:
    """Print the report of a sweep and write its files beside the runs; nothing where no run has begun.

    What became of its unfinished runs has been on the screen already.
    """
    try:
        records = collect([sweep])
    except ConfigError:
        return
    write_report(records, sweep, screen, sweep.name, remarks, show_unfinished=False)


def write_report(
    records: Sequence[Record],
    folder: Path,
    screen: Screen,
    title: str,
    remarks: Sequence[str] = (),
    show_unfinished: bool = True,
) -> None:
    """Print the report and write report.csv, report.md and report.png into `folder`."""
    from cnn_lab.sweeps.plots import draw_report

    keys, settings = compare(records)
    names = shorten_keys(keys)
    head = [*(names[key] for key in keys), *COLUMNS]
    rows = [[*(show(setting.values.get(key)) for key in keys), *_cells(setting)] for setting in settings]
    said = [*judge(settings, names), _name_data(records), *remarks]
    unfinished = _list_unfinished(records)
    last = _describe_best(settings)

    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(records, keys, folder / "report.csv")
    text = _as_markdown(title, head, rows, [*said, *unfinished, *last])
    (folder / "report.md").write_text(text, encoding="utf-8")
    draw_report(settings, names, folder / "report.png", title)

    screen.show("")
    screen.show(_as_table(head, rows[:ROWS_SHOWN]))
    if len(rows) > ROWS_SHOWN:
        screen.show(f"... and {len(rows) - ROWS_SHOWN} more settings in report.md")
    for remark in [*said, *(unfinished if show_unfinished else ()), *last]:
        screen.show(remark)
    screen.show(f"\nReport: {shorten(folder / 'report.png')}, report.csv, report.md")


def judge(settings: Sequence[Setting], names: Mapping[str, str]) -> list[str]:
    """Which setting is best, and from which others the runs cannot tell it apart."""
    measured = {
        describe(item, names): found
        for item in settings
        if item.completed and (found := item.measure("val/accuracy"))
    }
    if len(measured) < 2:
        return []
    (best, (top, spread, _)), *others = measured.items()
    text = f"Best on validation images: {best}."
    single = [name for name, (_, _, count) in measured.items() if count == 1]
    if len(single) == len(measured):
        return [text, "Each setting has 1 run: how far seeds differ is not known; add seed=0,1,2."]
    close = [name for name, (mean, other, _) in others if top - mean <= (spread or 0) + (other or 0)]
    verdict = "over all others is larger than the spread over seeds"
    if close:
        verdict = f"is within the spread over seeds of: {_list(close, '; ')}"
    lines = [f"{text} Its lead {verdict}."]
    if single:
        lines.append(f"With a single run, whose spread is not known: {_list(single, '; ')}.")
    return lines


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


def _describe_best(settings: Sequence[Setting]) -> list[str]:
    """Where the best run of the best setting is, and the command that trains the same again."""
    runs = [run for run in settings[0].runs if run.status == "completed" and run.accuracy is not None]
    if not runs:
        return []
    best = max(runs, key=lambda run: run.accuracy or 0.0)
    typed = map(str, best.result.get("overrides", ()))
    kept = [text for text in typed if not text.startswith(("sweep.", "hydra."))]
    if any(text.startswith(("experiment=", "search=")) for text in kept):
        kept.append("hydra.mode=RUN")  # such a file may ask for a sweep
    command = shlex.join(["python", shorten(PROJECT / "scripts" / "train.py"), *kept])
    return [f"Best run: {shorten(best.path)}", f"Train it again: {command}"]


def _name_data(records: Sequence[Record]) -> str:
    names = {record.result["dataset"]["name"] for record in records if "dataset" in record.result}
    return f"Data: {', '.join(sorted(names)) or 'never loaded'}."


def _list_unfinished(records: Sequence[Record]) -> list[str]:
    """A line for each reason for which runs have not reached their end."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        if record.status in ("completed", "pruned"):
            continue
        epochs = record.result.get("epochs")
        error = str(record.result.get("error") or "").partition("\n")[0]
        reason = error or (f"after epoch {epochs}" if epochs else "in its first epoch")
        reasons[record.status, reason].append(record.path.name)
    return [f"{status}: {_list(names)}: {reason}" for (status, reason), names in reasons.items()]


def _list(names: Sequence[str], separator: str = ", ") -> str:
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return separator.join(names[:NAMES_SHOWN]) + rest


def _write_csv(records: Sequence[Record], keys: Sequence[str], path: Path) -> None:
    measured = ("parameters", "epochs", "seconds", "test/accuracy", "test/loss", "error")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "status", *keys, "seed", "val/accuracy", *measured])
        for record in records:
            flat = name_targets(record.settings)
            values = [show(flat.get(key)) for key in keys]
            results = [record.accuracy, *(record.result.get(name) for name in measured)]
            writer.writerow([record.path.name, record.status, *values, record.settings.get("seed"), *results])


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
    note = "Accuracies are means ± standard deviations over runs that differ in their seed."
    return "\n".join([f"# {title}", "", *lines, "", note, "", *(f"- {remark}" for remark in remarks)]) + "\n"
