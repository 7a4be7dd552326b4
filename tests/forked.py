"""Runs a script as a process of its own, forked from one that has imported the slow libraries already.

It has its own arguments, environment, working directory, output and exit code, as when a user starts it, and
is there in a fraction of the seconds.
"""

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lightning.pytorch", "torchmetrics.classification", "torch.utils.tensorboard", "tests.preloaded"]
)


def run_forked(
    script: Path, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` with captured text would return."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(
            target=_become, args=(str(script), [*arguments], str(cwd), dict(environment), outputs)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired([script, *arguments], timeout)
        texts = [path.read_text() for path in outputs]
    return subprocess.CompletedProcess([script, *arguments], process.exitcode or 0, *texts)


def _become(
    script: str, arguments: list[str], cwd: str, environment: dict[str, str], outputs: list[Path]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(outputs, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (open(number, "rw"[number > 0], closefd=False) for number in range(3))  # noqa: SIM115
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    with contextlib.suppress(KeyboardInterrupt):
        runpy.run_path(script, run_name="__main__")
