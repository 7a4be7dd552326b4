"""What launchers and libraries leave in the environment: it is refused by name, or does not count."""

import os

import pytest

from cnn_lab.errors import ConfigError
from cnn_lab.settings.environment import RUN_DIR, RUN_PROCESS, is_helper_process, settle_environment
from cnn_lab.terminal.command import run_command

ONE_OF_SEVERAL = [
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},  # torchrun
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},  # Kubeflow
    {"RANK": "1"},
    {"LOCAL_RANK": "1"},
    {"LOCAL_RANK": "first"},
    {"NODE_RANK": "1"},
    {"GROUP_RANK": "1"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
    {"SLURM_PROCID": "1"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    {"OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"PMI_SIZE": "2", "PMI_RANK": "0"},
    {"MV2_COMM_WORLD_RANK": "1"},
    {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "0"},
    {"SM_HOSTS": '["algo-1","algo-2"]', "SM_CURRENT_HOST": "algo-1"},
    {RUN_DIR: "outputs/runs/of-another-shell", RUN_PROCESS: "1", "LOCAL_RANK": "1"},
]
SINGLE = [
    {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"},
    {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"},
    {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "23456", "NODE_RANK": "0", "STANDALONE_PORT": "1"},
    {"SLURM_NTASKS": "4"},
    {"RANK": "", "LOCAL_RANK": "-1"},
    {"PL_GLOBAL_SEED": "7", "PL_SEED_WORKERS": "1"},
    {RUN_DIR: "outputs/runs/of-another-shell", RUN_PROCESS: "1"},
]
KEPT = {
    "SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1",
    "SM_HOSTS": '["algo-1"]', "CUDA_VISIBLE_DEVICES": "0", "GOMP_SPINCOUNT": "5", "PL_TRAINER_DEVICES": "",
}  # fmt: skip


@pytest.mark.parametrize("variables", ONE_OF_SEVERAL, ids=str)
def test_one_of_several_processes_is_refused_by_every_command(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: pytest.fail("the command ran"))
    error = capsys.readouterr().err
    *_, unset = error.rpartition("unset ")
    wrong = {name for name in unset.split() if name in variables}
    assert ended.value.code == 2
    assert error.startswith(tuple(f"Error: {name}={variables[name]} says that this" for name in wrong))
    assert wrong == set(unset.split())
    for name in wrong:
        monkeypatch.delenv(name)
    settle_environment()


@pytest.mark.parametrize("variables", SINGLE, ids=str)
def test_what_libraries_would_follow_is_set_aside(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settle_environment()
    assert not is_helper_process()
    assert not set(variables) & set(os.environ)


def test_what_has_a_meaning_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEPT.items():
        monkeypatch.setenv(name, value)
    settle_environment()
    assert {name: os.environ[name] for name in KEPT} == KEPT


def test_the_trainer_takes_no_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_FAST_DEV_RUN", "True")
    with pytest.raises(
        ConfigError,
        match=r"^PL_TRAINER_FAST_DEV_RUN=True changes the Trainer, .* unset PL_TRAINER_FAST_DEV_RUN$",
    ):
        settle_environment()
