"""The environment: which of its variables count here, which are refused and which are set aside.

Every command, job and helper process reads it here, before torch and Lightning do.
"""

import contextlib
import functools
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cnn_lab.errors import ConfigError

RUN_DIR, RUN_PROCESS = "CNN_LAB_RUN_DIR", "CNN_LAB_RUN_PROCESS"
SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPIN_COUNT = "1000"  # see `benchmarks/speed.py pairs`
ALONE = (
    "says that this is one of several processes, and each would be a run of its own. Start a single process, "
    "without torchrun, srun or mpirun: it starts the others itself, with trainer.devices=2 for example"
)
UNRECORDED = "changes the Trainer, and no run would record it. Type settings as KEY=VALUE instead"


@dataclass(frozen=True)
class Rule:
    """What is done about some variables.

    Attributes:
        names: a regular expression.
        most: the largest number that they may have; infinity for any value.
        is_removed: whether libraries no longer see them.
        reason: what a value above `most` does.
    """

    names: str
    most: float
    is_removed: bool
    reason: str = ""

    def refuses(self, value: str) -> bool:
        """Whether a variable must not have this value."""
        return value != "" and _read_number(value) > self.most


def _read_number(value: str) -> float:
    """The number that a text says, or of items in its JSON list; infinity for other text."""
    try:
        found = json.loads(value)
        return len(found) if isinstance(found, list) else float(found)
    except (ValueError, TypeError):
        return math.inf


RULES = (
    # torchrun, Kubeflow and Lightning's own launcher. With a local rank Lightning starts no processes; with a
    # rank above 0 it prints and writes nothing.
    Rule("WORLD_SIZE|LOCAL_WORLD_SIZE", 1, True, ALONE),
    Rule("RANK|LOCAL_RANK|GROUP_RANK|NODE_RANK", 0, True, ALONE),
    # A run's processes meet on this machine, at a port that is free.
    Rule("MASTER_ADDR|MASTER_PORT|STANDALONE_PORT|TORCHELASTIC_.*", math.inf, True),
    # Slurm counts the tasks of a step, of which each is a process, and those that an allocation has room for,
    # which Lightning takes for processes. Others need the rest, such as submitit to submit a job again.
    Rule("SLURM_STEP_NUM_TASKS", 1, False, ALONE),
    Rule("SLURM_PROCID", 0, False, ALONE),
    Rule("SLURM_NTASKS", math.inf, True),
    # Open MPI, MPICH and Intel MPI, MVAPICH, LSF's jsrun, and SageMaker's list of machines.
    Rule("(OMPI_COMM_WORLD|PMI|MV2_COMM_WORLD|JSM_NAMESPACE)_SIZE|SM_HOSTS", 1, False, ALONE),
    Rule("(OMPI_COMM_WORLD|PMI|MV2_COMM_WORLD|JSM_NAMESPACE)_(LOCAL_)?RANK", 0, False, ALONE),
    # Lightning reads the Trainer's arguments here, and the seed that an earlier run has left.
    Rule("PL_TRAINER_.*", -math.inf, False, UNRECORDED),
    Rule("PL_GLOBAL_SEED|PL_SEED_WORKERS", math.inf, True),
    # A run of another shell.
    Rule(f"{RUN_DIR}|{RUN_PROCESS}", math.inf, True),
)


def settle_environment() -> None:
    """Let only what was typed decide how a run trains, and let waiting threads give way to other runs.

    Raises:
        ConfigError: for variables that would make this process one of several, or change a run's settings,
            with the command that removes them.
    """
    if is_helper_process():
        return
    settled = [(name, rule) for rule in RULES for name in os.environ if re.fullmatch(rule.names, name)]
    refused = [(name, rule) for name, rule in settled if rule.refuses(os.environ[name])]
    if refused:
        name, rule = refused[0]
        names = " ".join(name for name, _ in refused)
        typed = f"{name}={os.environ[name]:.40}"
        raise ConfigError(f"{typed} {rule.reason}. If it is left over from another job, type: unset {names}")
    for name, rule in settled:
        if rule.is_removed:
            del os.environ[name]
    if not os.environ.keys() & SPINNING:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


@functools.cache
def is_helper_process() -> bool:
    """Whether a run's first process started this one to train with it, on a device of its own."""
    if os.environ.get(RUN_PROCESS) != str(os.getppid()):
        return False
    return os.environ.get("LOCAL_RANK", "0") != "0"


def share_run_directory(path: Path) -> None:
    """Tell the processes that this one starts to train with it where the run is."""
    if is_helper_process():
        return
    os.environ.update({RUN_DIR: str(path), RUN_PROCESS: str(os.getpid())})


def read_run_directory() -> Path:
    """Where the run is that a helper process trains with."""
    return Path(os.environ[RUN_DIR])


def find_cache() -> Path:
    """The folder for what can be made again; one that cannot be made for a user without a home directory."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cnn-lab"
    return Path(os.devnull) / "cnn-lab"
