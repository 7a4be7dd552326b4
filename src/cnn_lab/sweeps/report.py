"""The report of runs: what differs and which settings were best, as a table, in words and in files.

Nothing here imports torch.
"""

import csv
import io
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cnn_lab.errors import ConfigError, count
from cnn_lab.files import WriteError, make_folder, write_file
from cnn_lab.pictures.style import save_figure
from cnn_lab.settings.groups import show
from cnn_lab.sweeps.advice import advise, list_some
from cnn_lab.sweeps.names import shorten_keys
from cnn_lab.sweeps.results import (
    REPETITIONS,
    Record,
    Setting,
    collect,
    compare,
    find_choice,
    find_unit,
    list_distinct,
    list_metrics,
    name_repetitions,
    place_of,
)
from cnn_lab.sweeps.verdict import Verdict
from cnn_lab.terminal.screen import NAMES, Screen, shorten, type_command

COLUMNS = ("runs", "val accuracy", "gap to the best, {}", "test accuracy", "parameters", "seconds", "status")
VERDICT = ("verdict", "worse_by", "worse_by/low", "worse_by/high")
NOTE = (
    "Differences from the best have 95 % intervals (Welch). "
    "If no setting differs, in at most 5 % of sweeps is any setting wrongly called worse."
)
ROWS_SHOWN = 30
SPARED = ("seconds", "parameters", "runs")  # columns that a narrow terminal does without, in this order


def report_sweep(sweep: Path, screen: Screen, remarks: Sequence[str] = ()) -> None:
    """Print the report of a sweep and write its files beside the runs; nothing where no run has begun.

    What became of its unfinished runs has been on the screen already.
    """
    try:
        records = collect([sweep])
    except ConfigError:
        return
    try:
        write_report(records, sweep, screen, sweep.name, remarks, show_unfinished=False)
    except WriteError as error:  # the runs have ended all the same
        screen.show(f"\nThe report's files are missing: {error}", style="red")


def write_report(
    records: Sequence[Record],
    folder: Path,
    screen: Screen,
    title: str,
    remarks: Sequence[str] = (),
    show_unfinished: bool = True,
) -> None:
    """Print the report and write report.csv, report.md and the pictures into `folder`.

    Raises:
        WriteError: when they cannot be written, after what was printed.
    """
    from cnn_lab.sweeps.curves import draw_curves, draw_learning_curves
    from cnn_lab.sweeps.plots import draw_report

    keys, settings = compare(records)
    names = shorten_keys(keys)
    head, rows = _tabulate(settings, names)
    said = [*advise(records, settings, names), _name_data(records), *remarks]
    unfinished = _list_unfinished(records)
    last = _describe_best(settings)

    screen.show("")
    columns = dict(zip(head, zip(*rows[:ROWS_SHOWN], strict=True), strict=True))
    left_out = _fit(columns, screen.console.width)
    screen.show(_as_table(columns))
    if left_out:
        screen.show(f"Not shown for lack of space: {', '.join(left_out)} (see report.md)")
    if len(rows) > ROWS_SHOWN:
        screen.show(f"... and {count(len(rows) - ROWS_SHOWN, 'more setting')} in report.md")
    for remark in [*said, *(unfinished if show_unfinished else ()), *last]:
        screen.show(remark)

    make_folder(folder)
    write_file(folder / "report.csv", _as_csv(settings, keys))
    text = _as_markdown(title, head, rows, [*said, *unfinished, *last], name_repetitions(settings))
    write_file(folder / "report.md", text)
    figures = {
        "report.png": draw_report(settings, names, title),
        "curves.png": draw_curves(settings, names, title),
        "learning_curves.png": draw_learning_curves(settings, names, title),
    }
    for name, figure in figures.items():
        if figure:
            save_figure(figure, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # an earlier report's
    files = [*(name for name, figure in figures.items() if figure), "report.csv", "report.md"]
    screen.show(f"\nReport: {shorten(folder / files[0])}, {', '.join(files[1:])}")


def _tabulate(settings: Sequence[Setting], names: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table, without a column in which nothing would stand."""
    metrics = list_metrics(settings)
    metric, _ = find_choice(run for setting in settings for run in setting.runs)
    head = [*names.values(), *COLUMNS[:4], *(name.replace("/", " ") for name in metrics), *COLUMNS[4:]]
    head = [name.format(find_unit(metric)[0]) if name in COLUMNS else name for name in head]
    rows = [[*_show_values(setting.values, names), *_cells(setting, metrics, metric)] for setting in settings]
    empty = {name for place, name in enumerate(head) if not any(row[place] for row in rows)}
    if all(run.status == "completed" for setting in settings for run in setting.runs):
        empty.add("status")
    kept = [place for place, name in enumerate(head) if name not in empty]
    return [head[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _show_values(values: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Each key's value as it is typed; empty for a key that does not belong to this setting."""
    return [show(values[key]) if key in values else "" for key in keys]


def _cells(setting: Setting, metrics: Sequence[str], metric: str) -> list[str]:
    parameters = setting.measure("parameters")
    seconds = setting.measure("seconds")
    counts = Counter(run.status for run in setting.runs)
    return [
        str(len(setting.runs)),
        _with_spread(setting.measure("val/accuracy")),
        _in_words(setting.verdict, metric) if setting.verdict else "",
        _with_spread(setting.measure("test/accuracy")),
        *(_with_spread(setting.measure(name), is_share=False) for name in metrics),
        f"{parameters[0]:,.0f}" if parameters else "",
        f"{seconds[0]:.1f}" if seconds else "",
        ", ".join(f"{count} {status}" if len(counts) > 1 else status for status, count in counts.items()),
    ]


def _in_words(verdict: Verdict, metric: str) -> str:
    if verdict.word == "best":
        return verdict.word
    _, scale = find_unit(metric)
    digits = 2 if scale == 100 else 4
    worse_by, low, high = (
        f"{scale * value:.{digits}f}" for value in (verdict.worse_by, verdict.low, verdict.high)
    )
    interval = f"{low} to {high}" if math.isfinite(verdict.high) else "runs do not differ"
    word = verdict.word.replace("no difference", "none")  # the column's head says of what
    return f"{word}: {worse_by} ({interval})"


def _with_spread(measured: tuple[float, float | None, int] | None, is_share: bool = True) -> str:
    if measured is None:
        return ""
    mean, spread, _ = measured
    if not is_share:
        return f"{mean:#.4g}" if spread is None else f"{mean:#.4g} ± {spread:#.2g}"
    return f"{mean:.2%}" if spread is None else f"{mean * 100:.2f} ± {spread * 100:.2f} %"


def _describe_best(settings: Sequence[Setting]) -> list[str]:
    """Where the best run of the best setting is, and the command that trains the same again."""
    best = settings[0].find_best_run()
    if not best:
        return []
    typed = map(str, best.result.get("overrides", ()))
    kept = [text for text in typed if not text.startswith(("sweep.", "hydra."))]
    if any(text.startswith(("experiment=", "search=")) for text in kept):
        kept.append("hydra.mode=RUN")  # such a file may ask for a sweep
    again = f"{type_command('train')} {shlex.join(kept)}"
    return [f"Best run: {shorten(best.path)}", f"Train it again: {again}"]


def _name_data(records: Sequence[Record]) -> str:
    """The data sets, and on how many images they were measured, which a limit may differ in."""
    names = {record.result["dataset"]["name"] for record in records if "dataset" in record.result}
    measured = [record.result["images"] for record in records if "images" in record.result]
    counts = {split: sorted({images[split] for images in measured}) for split in ("val", "test")}
    parts = [
        f"{' or '.join(f'{count:,}' for count in found)} {NAMES[split]}"
        for split, found in counts.items()
        if any(found)
    ]
    on = f", measured on {' and '.join(parts)} images" if parts else ""
    return f"Data: {', '.join(sorted(names)) or 'never loaded'}{on}."


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
    return [f"{status}: {list_some(names)}: {reason}" for (status, reason), names in reasons.items()]


def _as_csv(settings: Sequence[Setting], keys: Sequence[str]) -> str:
    """One row per run, in the order of their numbers, with the verdict on its setting."""
    metrics = list_metrics(settings)
    measured = ["parameters", "epochs", "seconds", "test/accuracy", "test/loss", *metrics, "error"]
    runs = [(record, setting) for setting in settings for record in setting.runs]
    folds = [key for key in REPETITIONS if key != "seed" and list_distinct((run for run, _ in runs), key)]
    repeated = ["seed", *folds]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["run", "status", *keys, *repeated, "val/accuracy", *measured, *VERDICT])
    for record, setting in sorted(runs, key=lambda item: place_of(item[0])):
        verdict = setting.verdict
        values = _show_values(setting.values, keys)
        values += [record.settings.get(key) for key in repeated]
        results = [record.accuracy, *(record.measured(name) for name in measured)]
        said = ["", "", "", ""]
        if verdict:
            said = [verdict.word, verdict.worse_by, verdict.low, verdict.high]
        writer.writerow([record.path.name, record.status, *values, *results, *said])
    return text.getvalue()


def _as_table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name == "status" else "right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _fit(columns: dict[str, tuple[str, ...]], width: int) -> list[str]:
    """Delete columns for which a line of `width` characters has no room; returns their names."""
    left_out = []
    for name in SPARED:
        widths = [max(map(len, [head, *cells])) for head, cells in columns.items()]
        if name in columns and sum(widths) + 2 * (len(widths) - 1) > width:
            del columns[name]
            left_out.append(name)
    return left_out


def _as_markdown(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str], over: str
) -> str:
    table = [head, ["---"] * len(head), *rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    note = (
        f"Accuracies are means ± standard deviations over {over}. {NOTE}" if over else "One run per setting."
    )
    return "\n".join([f"# {title}", "", *lines, "", note, "", *(f"- {remark}" for remark in remarks)]) + "\n"
