"""How every command starts: which there are, and a sign of life before anything slow is imported."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import cnn_lab
from cnn_lab.commands.door import COMMANDS

DOOR = "from cnn_lab.commands.door import main; main()"


def start(*typed: str, code: str = DOOR, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `cnn-lab` with these arguments prints, or another program."""
    return subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("typed", "problem"),
    {
        "": "cnn-lab needs a command (choose from train, sweep, report, ",
        "trian": "cnn-lab has no command 'trian'. Did you mean 'train'?\n",
        "x\x1b[2J": "cnn-lab has no command 'x[2J' (choose from train, ",
        "seed=1": "cnn-lab has no command 'seed=1' (choose from train, ",
    }.items(),
)
def test_a_command_that_there_is_not_is_one_message(typed: str, problem: str) -> None:
    done = start(*typed.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"Error: {problem}")


def test_help_lists_each_command_in_a_line_and_the_version_is_the_package_s() -> None:
    lines = start("--help").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert start("--version").stdout == f"cnn-lab {cnn_lab.__version__}\n"


def test_a_deleted_working_directory_is_one_message(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = start("train", code=f"import os; os.rmdir({str(gone)!r}); {DOOR}", cwd=gone)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: the working directory has been deleted; change to another one\n"


def test_the_sign_of_life_waits_for_no_library() -> None:
    code = "import sys, cnn_lab.commands.door; print({'hydra', 'numpy', 'rich', 'torch'} & {*sys.modules})"
    assert start(code=code).stdout == "set()\n"


SIGN = """
import sys, time
from cnn_lab.terminal import waiting
waiting.say("Nobody started it")
waiting.start()
waiting.say("Loading")
time.sleep(1.5)
waiting.hush()
sys.stdout.write("ready\\n")
"""


def test_a_pipe_gets_a_line_and_standard_output_only_what_was_asked_for() -> None:
    done = start(code=SIGN)
    assert (done.stdout, done.stderr) == ("ready\n", "Loading ...\n")
    assert start(code=SIGN.replace("1.5", "0")).stderr == ""


def test_on_a_terminal_it_counts_and_is_overwritten_by_what_follows() -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SIGN], stdout=terminal, stderr=terminal, env=environment
    )
    assert process.wait(60) == 0
    os.close(terminal)
    shown = os.read(controller, 10_000).decode()
    os.close(controller)
    first, *drawn, last = shown.split("\r\x1b[K")
    assert (first, last) == ("", "ready\r\n")
    assert len(drawn) >= 2
    assert {text.partition(" ... ")[0] for text in drawn} == {"Loading"}
