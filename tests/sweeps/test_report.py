"""The report of runs: what it compares, in which order, what it says and draws, and how it is called."""

import copy
import csv
import io
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib import colors
from PIL import Image
from rich.console import Console

from cnn_lab.commands import report
from cnn_lab.pictures.style import BLUE, GRAY, save_figure
from cnn_lab.settings.config import check_config
from cnn_lab.sweeps import curves
from cnn_lab.sweeps.advice import advise
from cnn_lab.sweeps.curves import draw_curves
from cnn_lab.sweeps.names import shorten_keys
from cnn_lab.sweeps.plots import COLORS, choose_metric, describe_error_bars, draw_report, label_metric
from cnn_lab.sweeps.report import write_report
from cnn_lab.sweeps.results import collect, compare, describe, find_sweep
from cnn_lab.terminal.command import run_command
from cnn_lab.terminal.screen import Screen
from conftest import TrainedRun, compose_config, full_disk, run_script

BASE = check_config(compose_config())
NEW_YEAR = "2026-01-01T00:00:00+00:00"


def write_run(folder: Path, settings: Mapping[str, Any], accuracy: float | None, **result: Any) -> Path:
    """A run's directory with what a report reads: settings by dotted key, and the best validation accuracy."""
    config = copy.deepcopy(BASE)
    for key, value in settings.items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = json.loads(value) if isinstance(value, str) else value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    best = {"val/accuracy": accuracy, "epoch": 1} if accuracy is not None else None
    test = {"test/accuracy": accuracy, "test/loss": 0.1} if accuracy is not None else {}
    record = {"status": "completed", "error": None, "best": best, "parameters": 1000, "seconds": 1.0, **test}
    (folder / "result.json").write_text(json.dumps({**record, "started": NEW_YEAR, **result}))
    return folder


def write_sweep(
    folder: Path,
    accuracies: Mapping[tuple[Any, ...], list[float]],
    *keys: str,
    kind: str = "grid",
    typed: Any = (),
) -> Path:
    """A sweep with a run a seed for each combination of values."""
    number = 0
    for values, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            settings = {**dict(zip(keys, values, strict=True)), "seed": seed}
            write_run(
                folder / f"{number}-x", settings, accuracy, parameters=1000 * (len(accuracies) + number)
            )
            number += 1
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"kind": kind, "typed": list(typed)}))
    return folder


def draw(folder: Path, accuracies: Mapping[tuple[Any, ...], list[float]], *keys: str) -> Image.Image:
    found, settings = compare(collect([write_sweep(folder, accuracies, *keys)]))
    assert set(found) == set(keys)
    figure = draw_report(settings, shorten_keys(found), "title")
    save_figure(figure, folder / "report.png")
    with Image.open(folder / "report.png") as picture:
        return picture.convert("RGB")


def count_colors(picture: Image.Image) -> dict[tuple[int, ...], int]:
    return {color: count for count, color in picture.convert("RGB").getcolors(maxcolors=1_000_000)}


def count_pixels(picture: Image.Image, color: str, panel: int, panels: int) -> int:
    """How many pixels of a panel, of so many side by side, have a colour, or nearly."""
    wanted = [round(255 * part) for part in colors.to_rgb(color)]
    left, right = (picture.width * number // panels for number in (panel, panel + 1))
    counts = count_colors(picture.crop((left, 0, right, picture.height)))
    return sum(
        count
        for pixel, count in counts.items()
        if all(abs(a - b) < 3 for a, b in zip(pixel, wanted, strict=True))
    )


def test_seeds_are_folded_and_the_best_on_validation_images_comes_first(tmp_path: Path) -> None:
    sweep = write_sweep(
        tmp_path, {(0.1,): [0.90, 0.92], (0.5,): [0.95, 0.97], (0.3,): [0.5]}, "model.dropout"
    )
    keys, settings = compare(collect([sweep]))
    assert keys == ["model.dropout"]
    assert [setting.values["model.dropout"] for setting in settings] == [0.5, 0.1, 0.3]
    mean, spread, count = settings[0].measure("val/accuracy")
    assert (mean, spread, count) == (pytest.approx(0.96), pytest.approx(0.02 / 2**0.5), 2)
    assert settings[2].measure("val/accuracy") == (0.5, None, 1)


def test_what_comes_with_an_optimizer_is_shown_where_it_differs(tmp_path: Path) -> None:
    """Another lr is as likely a reason for a better run as another optimizer; Adam's betas, which SGD lacks, is none."""
    for number, name in enumerate(("adam", "sgd")):
        settings = check_config(compose_config(f"optimizer={name}"))
        write_run(tmp_path / f"{number}-x", {"optimizer": settings["optimizer"]}, 0.9)
    keys, settings = compare(collect([tmp_path]))
    assert keys == ["optimizer", "optimizer.lr"]
    assert [list(setting.values.values()) for setting in settings] == [["Adam", 0.001], ["SGD", 0.05]]


def test_what_comes_with_a_data_set_is_no_difference_of_its_own(tmp_path: Path) -> None:
    for number, name in enumerate(("mnist", "fashion_mnist")):
        write_run(
            tmp_path / f"{number}-x", {"data": check_config(compose_config(f"data={name}"))["data"]}, 0.9
        )
    assert compare(collect([tmp_path]))[0] == ["data.name"]
    write_run(tmp_path / "2-x", {"data.mean": 0.5}, 0.9)
    assert sorted(compare(collect([tmp_path]))[0]) == ["data.mean", "data.name"]


def advise_on(sweep: Path) -> list[str]:
    records = collect([sweep])
    return advise(records, compare(records)[1], {"model.dropout": "dropout"})


def test_a_report_says_who_is_worse_and_how_the_rest_is_settled(tmp_path: Path) -> None:
    """Differences 0, 0.1, 1.5 and 10 points at a spread of 1; the setting with a single run is left out."""
    best = [0.94, 0.95, 0.96]
    runs = {
        (dropout,): [value - worse_by for value in best]
        for dropout, worse_by in {0.1: 0.0, 0.2: 0.001, 0.3: 0.015, 0.4: 0.1}.items()
    }
    sweep = write_sweep(
        tmp_path / "a", {**runs, (0.5,): [0.99]}, "model.dropout", typed=["seed=0,1,2", "x='[8, 1]'"]
    )
    command = f"python scripts/train.py -m 'x='\"'\"'[8, 1]'\"'\"'' sweep.resume={sweep} seed=0,1,2,3,4,5,6,7"
    assert advise_on(sweep) == [
        "Best on validation images, over 3 seeds: dropout 0.1.",
        "Worse: dropout 0.4.",
        "Undecided: dropout 0.3.",
        "No difference visible with 3 seeds, nor with 30 runs per setting: dropout 0.2.",
        "Not compared, with a single run each: dropout 0.5.",
        f"About 8 runs per setting should show whether dropout 0.3 is worse: {command}",
    ]
    done = run_script("report.py", str(sweep))
    assert (done.returncode, done.stderr) == (0, "")
    report = (sweep / "report.md").read_text()
    with (sweep / "report.csv").open() as file:
        rows = {row["model.dropout"]: row for row in csv.DictReader(file)}
    verdict = compare(collect([sweep]))[1][4].verdict
    interval = f"worse: 10.00 ({100 * verdict.low:.2f} to {100 * verdict.high:.2f})"
    assert interval in report
    assert interval in done.stdout
    assert command in done.stdout
    assert [rows[name]["verdict"] for name in ("0.1", "0.4", "0.5")] == ["best", "worse", ""]
    assert [
        float(rows["0.4"][name]) for name in ("worse_by", "worse_by/low", "worse_by/high")
    ] == pytest.approx([0.1, verdict.low, verdict.high])


def test_single_runs_say_nothing_about_differences(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(0.1,): [0.95], (0.5,): [0.90]}, "model.dropout")
    best, advice = advise_on(sweep)
    assert best == "Best on validation images: dropout 0.1."
    assert advice.startswith("One run per setting cannot show whether a difference is real; 5 seeds can: ")
    assert advice.endswith(f" sweep.resume={sweep} seed=0,1,2,3,4")


def test_the_best_of_a_search_is_too_good_by_its_choice(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(0.1,): [0.95], (0.5,): [0.90]}, "model.dropout", kind="search")
    best, choice, advice = advise_on(sweep)
    assert best == "Best of 2 settings: dropout 0.1. Validation images give 95.00%."
    assert choice.endswith("tends to be too good; on test images, which chose nothing, it reaches 95.00%.")
    assert advice.startswith("Compare the best 3 over 5 seeds that chose nothing: ")
    assert advice.endswith(f" sweep.repeat={sweep} seed=1,2,3,4,5")


def test_the_best_of_a_search_is_told_in_what_it_was_chosen_by(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(0.1,): [0.95], (0.5,): [0.90]}, "model.dropout", kind="search")
    for path, f1 in zip(sorted(sweep.glob("*/result.json")), (0.75, 0.875), strict=True):
        result = json.loads(path.read_text())
        result |= {"best_by": {"metric": "val/f1", "mode": "max"}, "test/f1": 0.5}
        result["best"]["val/f1"] = f1
        path.write_text(json.dumps(result))
    best, choice, _ = advise_on(sweep)
    assert best == "Best of 2 settings: dropout 0.5. Validation images give f1 0.875."
    assert choice.endswith("on test images, which chose nothing, it reaches f1 0.5.")


def test_folds_count_as_seeds_do(tmp_path: Path) -> None:
    for number in range(10):
        settings = {"model.dropout": number // 5 / 10, "data.fold": number % 5}
        write_run(
            tmp_path / f"{number}-x",
            settings,
            0.9 + number % 5 / 100 - number // 5 / 50,
            fingerprint=str(number),
        )
    records = collect([tmp_path])
    keys, settings = compare(records)
    assert (keys, [len(setting.runs) for setting in settings]) == (["model.dropout"], [5, 5])
    assert describe_error_bars(settings, "val/accuracy") == "error bars: one standard deviation over 5 folds"
    said = advise(records, settings, {"model.dropout": "dropout"})
    assert said[0] == "Best on validation images, over 5 folds: dropout 0.0."
    assert said[1] == "Undecided: dropout 0.1."
    assert not any("per setting" in line for line in said)  # 10 would be needed, and there are 5 folds


def test_more_folds_are_advised_where_there_are_some(tmp_path: Path) -> None:
    for number in range(6):
        settings = {"model.dropout": number // 3 / 10, "data.fold": number % 3}
        accuracy = 0.9 + number % 3 / 100 - number // 3 / 50
        write_run(tmp_path / f"{number}-x", settings, accuracy, fingerprint=str(number))
    records = collect([tmp_path])
    said = advise(records, compare(records)[1], {"model.dropout": "dropout"})
    assert said[-1].endswith(" should show whether dropout 0.1 is worse: add data.fold=0,1,2,3")


def test_two_seeds_give_only_the_least_number_of_runs(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(0.1,): [0.95, 0.96], (0.5,): [0.91, 0.94]}, "model.dropout")
    assert advise_on(sweep)[-1].startswith(
        "At least 5 runs per setting should show whether dropout 0.5 is worse"
    )


def test_a_null_that_varies_is_shown_as_it_is_typed(tmp_path: Path) -> None:
    values = {(None,): [0.95, 0.96, 0.97], (3,): [0.90, 0.91, 0.92]}
    sweep = write_sweep(tmp_path, values, "early_stopping.patience")
    done = run_script("report.py", str(sweep))
    assert "Best on validation images, over 3 seeds: patience null." in done.stdout
    with (sweep / "report.csv").open() as file:
        assert {row["early_stopping.patience"] for row in csv.DictReader(file)} == {"null", "3"}
    assert "\n| null | " in (sweep / "report.md").read_text()


def test_a_narrow_terminal_gets_fewer_columns(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(0.1,): [0.95, 0.96, 0.97], (0.5,): [0.93, 0.97, 0.94]}, "model.dropout")
    screen = Screen()
    screen.console = Console(file=io.StringIO(), width=80)
    write_report(collect([sweep]), sweep, screen, "title")
    _, head, *rows = screen.console.file.getvalue().splitlines()
    assert max(map(len, [head, *rows[:3]])) <= 80
    assert " ".join(head.split()) == "dropout runs val accuracy gap to the best, points test accuracy"
    assert rows[2] == "Not shown for lack of space: seconds, parameters (see report.md)"


def test_a_run_that_was_repeated_is_no_second_seed(tmp_path: Path) -> None:
    for number, accuracy in enumerate((0.8, 0.9)):
        write_run(tmp_path / f"{number}-x", {}, accuracy, fingerprint="same")
    (setting,) = compare(collect([tmp_path]))[1]
    assert setting.measure("val/accuracy") == (0.9, None, 1)


def write_curve(run: Path, errors: list[float]) -> None:
    rows = "".join(f"{epoch},1,1,0,1,{1 - error},1,1\n" for epoch, error in enumerate(errors, 1))
    (run / "metrics.csv").write_text(
        "epoch,step,train/loss,train/accuracy,val/loss,val/accuracy,lr,seconds\n" + rows
    )


def test_curves_have_a_line_for_each_of_ten_settings_and_its_band(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {(number / 20,): [0.9, 0.8] for number in range(12)}, "model.dropout")
    for number, run in enumerate(sorted(sweep.glob("*-x"))):
        write_curve(run, [0.3 + 0.02 * number, 0.2 + 0.02 * number])
    _, settings = compare(collect([sweep]))
    save_figure(draw_curves(settings, {"model.dropout": "dropout"}, "title"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        found = count_colors(picture)
    for color in curves.COLORS:
        assert found.get(tuple(round(255 * part) for part in colors.to_rgb(color)), 0) > 300, color


def test_a_mean_ends_where_not_all_seeds_go_on() -> None:
    line = curves.Line("", [{1: 4.0, 2: 2.0}, {1: 2.0}], fewest=2)
    assert [list(numbers) for numbers in line.average()] == [[1], [3.0], [2**0.5]]


def test_names_beside_lines_do_not_overlap() -> None:
    places = curves.spread_out([0.5, 0.5, 0.52, 0.99, 0.0], [0.1] * 5)
    assert max(places) <= 0.95
    assert min(places) >= 0.05
    ordered = sorted(places)
    assert all(b - a >= 0.0999 for a, b in itertools.pairwise(ordered))


def test_learning_curves_are_drawn_where_the_number_of_images_varies(tmp_path: Path) -> None:
    sizes = {
        (size, f"[{channels}]"): [1 - channels / size**0.5] * 2
        for size in (100, 1000, 10_000)
        for channels in (2, 4)
    }
    sweep = write_sweep(tmp_path / "a", sizes, "data.train_size", "model.channels")
    other = write_sweep(tmp_path / "b", {(0.1,): [0.9], (0.2,): [0.8]}, "model.dropout")
    (other / "learning_curves.png").touch()  # of an earlier report
    for path, files in ((sweep, "learning_curves.png, report.csv"), (other, "report.png, report.csv")):
        done = run_script("report.py", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert files in done.stdout.splitlines()[-1]
    assert not (other / "learning_curves.png").exists()
    with Image.open(sweep / "learning_curves.png") as picture:
        found = count_colors(picture)
    assert found[(0x00, 0x72, 0xB2)] > 300
    assert found[(0xD5, 0x5E, 0x00)] > 300


@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("full", 1, "/report.csv cannot be written: File too large"),
        ("file", 2, " cannot be written: Not a directory"),
        ("file/report", 2, " cannot be written: Not a directory"),
    ],
)
def test_a_report_that_cannot_be_written_is_printed_all_the_same(
    place: str,
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep = write_sweep(tmp_path / "sweep", {(0.1,): [0.9], (0.2,): [0.8]}, "model.dropout")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.csv").write_text("old")
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["report.py", str(sweep), "--output", str(tmp_path / place)])
    with full_disk(20), pytest.raises(SystemExit) as ended:
        run_command(report.main)
    printed = capsys.readouterr()
    assert ended.value.code == code
    assert "Best run: " in printed.out
    assert printed.err == f"Error: {tmp_path / place}{told}; choose another place with --output DIR\n"
    assert [(path.name, path.read_text()) for path in (tmp_path / "full").iterdir()] == [
        ("report.csv", "old")
    ]


def test_failed_pruned_and_unfinished_runs_come_last_with_their_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "0-a", {"model.dropout": 0.1}, 0.99, status="pruned", reason="pruned after epoch 1")
    write_run(tmp_path / "1-b", {"model.dropout": 0.2}, None, status="failed", error="RuntimeError: no\nmore")
    write_run(tmp_path / "2-c", {"model.dropout": 0.3}, 0.5, status="running", epochs=3)
    write_run(tmp_path / "3-d", {"model.dropout": 0.4}, 0.6)
    _, settings = compare(collect([tmp_path]))
    assert [setting.values["model.dropout"] for setting in settings] == [0.4, 0.1, 0.3, 0.2]
    done = run_script("report.py", str(tmp_path), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "failed: 1-b: RuntimeError: no\n" in done.stdout
    assert "interrupted: 2-c: after epoch 3\n" in done.stdout  # no process holds its directory


def test_runs_that_failed_for_the_same_reason_share_a_line(tmp_path: Path) -> None:
    for number in range(5):
        write_run(
            tmp_path / f"{number}-a", {"seed": number}, None, status="failed", error="no", parameters=None
        )
    done = run_script("report.py", str(tmp_path), "--output", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "failed: 0-a, 1-a, 2-a and 2 more: no\n" in done.stdout


def test_a_repeated_run_of_a_sweep_counts_once(tmp_path: Path) -> None:
    """The one that was started last, an hour after the first, when summer time had ended."""
    summer, winter = "2026-10-25T02:40:00+02:00", "2026-10-25T02:10:00+01:00"
    write_run(tmp_path / "0-a", {}, None, status="failed", fingerprint="x", started=summer)
    write_run(tmp_path / "1-a", {}, 0.9, fingerprint="x", started=winter)
    (tmp_path / "sweep.yaml").write_text("kind: grid\n")
    assert [record.path.name for record in collect([tmp_path])] == ["1-a"]


def test_the_latest_sweep_is_the_one_that_was_started_last(tmp_path: Path) -> None:
    starts = {"2026-10-25_02-40-00-summer": "02:40:00+02:00", "2026-10-25_02-10-00-winter": "02:10:00+01:00"}
    for name, start in starts.items():
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "sweep.yaml").write_text(f"kind: grid\nstarted: '2026-10-25T{start}'\n")
    assert find_sweep(None, tmp_path).name == "2026-10-25_02-10-00-winter"


def test_a_run_without_its_number_of_parameters_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "0-a", {"model.dropout": 0.1}, 0.9, parameters=None)
    write_run(tmp_path / "1-a", {"model.dropout": 0.2}, 0.8)
    done = run_script("report.py", str(tmp_path), "--output", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_error_bars_say_what_they_are(tmp_path: Path) -> None:
    runs = {(0.1,): [0.9, 0.92], (0.3,): [0.8, 0.83, 0.84], (0.5,): [0.7]}
    _, settings = compare(collect([write_sweep(tmp_path, runs, "model.dropout")]))
    assert describe_error_bars(settings, "val/accuracy") == (
        "error bars: one standard deviation over 2 to 3 seeds"
    )
    assert describe_error_bars(settings[2:], "val/accuracy") == ""


def test_one_number_gives_a_line_with_error_bars(tmp_path: Path) -> None:
    """Beside it is the verdict, in the colours of its words, and below is the cost."""
    runs = {(0.1,): [0.9, 0.92, 0.91], (0.3,): [0.899, 0.92, 0.91], (0.5,): [0.7, 0.7, 0.7001]}
    picture = draw(tmp_path, runs, "model.dropout")
    assert picture.size == (1380, 1080)
    assert 500 < count_pixels(picture, BLUE, 0, 2) < 20_000
    upper, lower = picture.crop((0, 0, 1380, 540)), picture.crop((0, 540, 1380, 1080))
    for panel in range(2):
        assert 100 < count_pixels(upper, COLORS["no difference visible"], panel, 2) < 5_000
        alike = [count_pixels(lower, color, panel, 2) for color in (BLUE, COLORS["no difference visible"])]
        assert sum(alike) > 100  # one upon the other, since they cost the same
        assert all(count_pixels(half, GRAY, panel, 2) > 50 for half in (upper, lower))


def test_two_numbers_give_a_heat_map(tmp_path: Path) -> None:
    grid = {(size, dropout): [0.9 + dropout * size / 100] for size in (3, 5, 7) for dropout in (0.1, 0.2)}
    picture = draw(tmp_path, grid, "model.kernel_sizes", "model.dropout")
    assert count_pixels(picture, BLUE, 0, 3) == 0
    areas = sorted(
        count_colors(picture.crop((0, 0, picture.width // 3, picture.height))).values(), reverse=True
    )
    assert sum(count > 3_000 for count in areas[1:]) >= 6  # a large area of its own for each of six cells


def test_what_chooses_the_best_checkpoint_orders_a_report_in_its_own_unit(tmp_path: Path) -> None:
    """With best=val/loss less is better, whatever the accuracies say."""
    losses = {0.1: [0.30, 0.31, 0.32], 0.5: [0.10, 0.11, 0.12]}
    for number, (dropout, seed) in enumerate(product(losses, range(3))):
        best = {"val/loss": losses[dropout][seed], "val/accuracy": 0.9 - dropout / 10, "epoch": 1}
        by = {"metric": "val/loss", "mode": "min"}
        settings = {"model.dropout": dropout, "seed": seed}
        write_run(tmp_path / "a" / f"{number}-x", settings, 0.9, best=best, best_by=by)
    done = run_script("report.py", str(tmp_path / "a"), "--output", str(tmp_path / "b"))
    rows = [
        line for line in (tmp_path / "b" / "report.md").read_text().splitlines() if line.startswith("| 0.")
    ]
    assert "gap to the best, val/loss" in done.stdout
    assert [row.split(" | ")[0] for row in rows] == ["| 0.5", "| 0.1"]
    assert "| worse: 0.2000 (" in rows[1]
    assert f"Best run: {tmp_path / 'a' / '3-x'}\n" in done.stdout
    drawn = choose_metric(compare(collect([tmp_path / "a"]))[1])
    assert (drawn, label_metric(drawn, as_error=True)) == ("val/loss", "validation loss")


def test_categories_give_bars(tmp_path: Path) -> None:
    two = draw(tmp_path / "a", {("[8, 16]",): [0.9, 0.91], ("[16, 32]",): [0.8, 0.82]}, "model.channels")
    paler = colors.to_hex([0.8 * part + 0.2 for part in colors.to_rgb(BLUE)])
    assert count_pixels(two, paler, 0, 3) > 30_000


def test_names_are_short_unless_two_end_alike() -> None:
    keys = ["optimizer.lr", "scheduler.patience", "early_stopping.patience"]
    assert list(shorten_keys(keys).values()) == ["lr", "scheduler.patience", "early_stopping.patience"]


def test_the_script_compares_single_runs_and_sweeps_alike(trained: TrainedRun, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", {(0.1,): [0.5], (0.3,): [0.6]}, "model.dropout")
    out = tmp_path / "report"
    done = run_script("report.py", str(sweep), str(trained.output_dir), "--output", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    with (out / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"0-x", "1-x", trained.path.name}
    (row,) = [row for row in rows if row["run"] == trained.path.name]
    assert float(row["test/accuracy"]) == trained.result["test/accuracy"]
    assert {path.name for path in out.iterdir()} == {
        "report.csv", "report.md", "report.png", "curves.png"
    }  # fmt: skip
    assert f"Best run: {trained.path}\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no run to report on in {path}"),
        ("none", "{path} is not a folder; give a sweep's, a run's, or one that contains some"),
    ],
)
def test_nothing_to_report_on(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name if name else tmp_path
    done = run_script("report.py", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"Error: {message.format(path=path)}\n")


def test_reports_and_the_parent_of_a_sweep_do_not_import_torch() -> None:
    code = (
        "import sys, cnn_lab.sweeps.plots, cnn_lab.sweeps.grid, cnn_lab.sweeps.job; "
        "assert 'optuna' not in sys.modules; import cnn_lab.sweeps.search; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_setting_is_described_as_it_is_typed(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, {("[8, 16]",): [0.9], ("[4]",): [0.8]}, "model.channels")
    _, settings = compare(collect([sweep]))
    assert [describe(item, {"model.channels": "channels"}) for item in settings] == [
        "channels [8,16]", "channels [4]"
    ]  # fmt: skip
