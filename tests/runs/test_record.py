"""What a record says of a run, also to a machine that cannot see its lock, and who may start one."""

import os
import platform
import tempfile
import time
from pathlib import Path

import pytest

from cnn_lab.runs.lock import LOCK, hold
from cnn_lab.runs.record import SILENCE, read_rows, read_status
from conftest import SMALL_DATA, train_command

TINY = [
    "trainer.limit_train_batches=2", "trainer.limit_test_batches=1", "model.channels=[2]", "model.hidden=[4]",
    "pictures.enabled=false", *SMALL_DATA[:2],
]  # fmt: skip


def test_a_running_run_shows_signs_of_life_to_other_machines(tmp_path: Path) -> None:
    now = time.time()
    elsewhere = {"status": "running", "host": "another", "updated": now}
    assert read_status(tmp_path, elsewhere) == "running"
    assert read_status(tmp_path, {**elsewhere, "updated": now - SILENCE - 1}) == "interrupted"
    assert read_status(tmp_path, {**elsewhere, "status": "completed", "updated": 0}) == "completed"
    here = {"status": "running", "host": platform.node(), "updated": now}
    assert read_status(tmp_path, here) == "interrupted"
    with hold(tmp_path):
        assert read_status(tmp_path, here) == "running"
    assert read_status(tmp_path, here) == "interrupted"


def test_whether_a_run_is_alive_is_told_where_nothing_can_be_written() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own belongs to one user only
        path, here = Path(folder), {"status": "running", "host": platform.node()}
        with hold(path):
            pass
        (path / LOCK).chmod(0o444)
        path.chmod(0o555)
        user = os.geteuid()
        os.seteuid(user or 12345)  # root may write anywhere
        try:
            assert read_status(path, here) == "interrupted"
        finally:
            os.seteuid(user)
            path.chmod(0o755)


def test_the_lr_of_a_row_is_the_one_that_its_epoch_was_trained_with(tmp_path: Path) -> None:
    done = train_command(
        *TINY, "scheduler=step", "scheduler.step_size=1", "optimizer.lr=0.01", "trainer.max_epochs=3",
        f"output_dir={tmp_path}",
    )  # fmt: skip
    (run,) = (tmp_path / "runs").iterdir()
    assert [row["lr"] for row in read_rows(run)] == pytest.approx([0.01, 0.001, 0.0001])
    assert [line.split()[5] for line in done.stdout.splitlines() if line.strip().startswith(("1/", "2/", "3/"))] == [
        "0.01", "0.001", "0.0001",
    ]  # fmt: skip
