"""What version 0.1.0 has left is continued and compared, and nothing of it is trained twice."""

import shutil
from pathlib import Path

import pytest

from cnn_lab.runs.checkpoints import load_checkpoint
from cnn_lab.settings.config import flatten
from cnn_lab.settings.meaning import identify
from cnn_lab.sweeps.results import collect, compare, read_record
from conftest import read_result, run_script, train_command

STORED = Path(__file__).parents[1] / "stored" / "0.1.0"
WRITTEN_INTO = "/tmp/outputs"  # noqa: S108 - it is not there any more


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the records, as if they had been written here."""
    outputs = shutil.copytree(STORED, tmp_path / "outputs")
    for path in (path for path in outputs.rglob("*") if path.suffix in (".yaml", ".json", ".log")):
        path.write_text(path.read_text().replace(WRITTEN_INTO, str(outputs)))
    monkeypatch.syspath_prepend(outputs)
    return outputs


@pytest.mark.parametrize(
    ("name", "trained"),
    [("grid", ["3-dropout-0.5_seed-1"]), ("own", []), ("search", ["2-dropout-0_lr-0.01142"])],
)
def test_a_sweep_goes_on_where_it_was(stored: Path, name: str, trained: list[str]) -> None:
    sweep = stored / "sweeps" / name
    ends = {run: read_result(run)["updated"] for run in sweep.glob("*-*")}
    typed = [item.replace(WRITTEN_INTO, str(stored)) for item in read_record(sweep)["typed"]]
    typed = [
        item.replace("model.hidden=4", "model.hidden=[4]").replace("=0,0.5", "=0.0,0.50") for item in typed
    ]
    done = train_command("-m", *typed, f"sweep.resume={sweep}", cwd=stored)
    assert (done.returncode, done.stderr) == (0, "")
    changed = [run.name for run in sorted(sweep.glob("*-*")) if read_result(run)["updated"] != ends.get(run)]
    assert changed[: len(trained)] == trained
    assert len(changed) == len(trained) + (name == "search")  # whose fourth trial had not begun


def test_a_report_and_a_comparison_read_them(stored: Path) -> None:
    found = {name: compare(collect([stored / "sweeps" / name])) for name in ("grid", "own", "search")}
    assert [keys for keys, _ in found.values()] == [
        ["model.dropout"], ["model.width"], ["model.dropout", "optimizer.lr"],
    ]  # fmt: skip
    counts = [[len(setting.runs) for setting in settings] for _, settings in found.values()]
    assert counts == [[2, 2], [2, 2], [1, 1, 1]]
    checked = run_script("evaluate.py", str(stored / "runs" / "completed"), "--json")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_run_goes_on_and_is_the_same_in_its_new_form(stored: Path) -> None:
    run = stored / "runs" / "interrupted"
    done = train_command(f"resume={run}", "model.hidden=[4]", "model.dropout=0.50")
    assert (done.returncode, done.stderr, read_result(run)["status"]) == (0, "", "completed")
    earlier, later = (
        load_checkpoint(STORED / "runs" / "interrupted" / "checkpoints" / "last.ckpt"),
        load_checkpoint(run / "checkpoints" / "last.ckpt"),
    )
    assert identify(flatten(earlier["config"])) == identify(flatten(later["config"]))
    assert later["config"]["model"]["hidden"] == [4]
