"""What is printed, where terminals differ."""

import shlex
import subprocess
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from cnn_lab.model import CNN
from cnn_lab.terminal.screen import Screen, format_layers, type_override

PRINT = "from cnn_lab.terminal.command import run_command; from cnn_lab.terminal.screen import Screen; "


def run_code(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", PRINT + code], env=environment, capture_output=True)


def test_a_table_is_never_cut(capsys) -> None:
    screen = Screen()
    screen.console.width = 60
    screen.show(format_layers(CNN(input_shape=(1, 28, 28), num_classes=10).layers))
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["layer", "operation", "output", "parameters", "multiply-adds"]
    assert " ".join(first.split()) == "block 1 conv conv 3x3, padding 1 32 x 28 x 28 320 225,792"


def test_a_path_in_a_command_is_typed_as_shell_and_hydra_need_it(tmp_path: Path) -> None:
    for name in ("plain", "with a space", "a[1],b", "it's", "größe"):
        (word,) = shlex.split(type_override("resume", tmp_path / name))
        override = OverridesParser.create().parse_override(word)
        assert (override.key_or_group, override.value()) == ("resume", str(tmp_path / name))
    assert type_override("resume", Path("/plain")) == "resume=/plain"


def test_what_cannot_be_printed_is_no_reason_to_fail() -> None:
    done = run_code("run_command(lambda: Screen().show('98.6 ± 0.1 %'))", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b"98.6 ? 0.1 %\n")


def test_without_colours_there_are_no_codes() -> None:
    code = "run_command(lambda: Screen().show('head', style='bold red'))"
    assert run_code(code, NO_COLOR="1", FORCE_COLOR="1").stdout == b"head\n"
    assert b"\x1b[" in run_code(code, FORCE_COLOR="1").stdout


def test_a_run_goes_on_when_nobody_reads_what_it_prints() -> None:
    code = (
        "import sys; show = Screen().show; "
        "run_command(lambda: [show('x' * 99) for _ in range(9999)] and sys.stderr.write('went on'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"went on")
