"""How many runs of a sweep go side by side, with how many threads each, and on which GPU.

Importing this does not import torch.
"""

import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf, read_write

from cnn_lab.errors import CnnLabError, ConfigError, count
from cnn_lab.settings.extras import install_hint

EXTRAS = {
    "hydra_joblib_launcher": "parallel",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "slurm",
}
RAY_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}
CONNECT_SECONDS = 5


def check_launcher(launcher: DictConfig, config: Mapping[str, Any]) -> None:
    """Refuse at once what every run would fail for. `config` is one run's.

    Raises:
        ConfigError: for a launcher that is not installed, or for more than there is to run on.
    """
    package = _package(launcher)
    if package in EXTRAS and importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        raise ConfigError(
            f"the launcher {package.removeprefix('hydra_')} is not installed; {install_hint(EXTRAS[package])}"
        )
    runs_here = package in ("_internal", "hydra_joblib_launcher")
    if runs_here and config["trainer"].get("accelerator") == "gpu":
        from cnn_lab.trainer import choose_hardware

        choose_hardware(config["trainer"])
    if package == "hydra_joblib_launcher":
        _check_joblib(launcher, config)
    if package == "hydra_ray_launcher":
        _check_ray(launcher)


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Refuse a run of a sweep on several devices.

    Raises:
        ConfigError: saying what to type instead.
    """
    for name in ("devices", "num_nodes"):
        if trainer.get(name, 1) not in (1, "1"):
            raise ConfigError(
                f"trainer.{name}={trainer[name]} cannot be combined with -m: each run of a sweep gets "
                f"one device. Type trainer.{name}=1, and hydra/launcher=joblib to use all devices, or train "
                "without -m"
            )


def _check_joblib(launcher: DictConfig, config: Mapping[str, Any]) -> None:
    places, gpus = _count_places(config)
    if launcher.n_jobs != -1 and launcher.n_jobs < 1:
        raise ConfigError(
            f"hydra.launcher.n_jobs={launcher.n_jobs} is out of range: it must be at least 1, or -1"
        )
    if gpus and launcher.n_jobs > places:
        raise ConfigError(
            f"hydra.launcher.n_jobs={launcher.n_jobs}: the GPUs of this machine have room for {places}; "
            f"type hydra.launcher.n_jobs={places}, or let more runs share a GPU with sweep.jobs_per_gpu"
        )


def _check_ray(launcher: DictConfig) -> None:
    """Refuse what Ray would try for minutes or wait for in vain: a dead address, more than a node has."""
    import ray

    settings = OmegaConf.to_container(launcher.ray.init, resolve=True)
    key = f"hydra.launcher.ray.init.address={settings['address']}"
    host, _, port = str(settings["address"]).rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host.rpartition("/")[2], int(port)), timeout=CONNECT_SECONDS).close()
        if not ray.is_initialized():  # the launcher would pass on empty settings, which a cluster refuses
            ray.init(**{key: value for key, value in settings.items() if value is not None})
    except ray.exceptions.AuthenticationError as error:
        raise ConfigError(
            f"{key}: RAY_AUTH_MODE=token is set, and there is no token. Set RAY_AUTH_TOKEN, or write the "
            "cluster's token to ~/.ray/auth_token"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        is_closed = getattr(error, "errno", None)  # else something answers there, and refuses
        hint = "" if is_closed else ". If it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise ConfigError(f"{key}: no Ray cluster answers at this address ({error}){hint}") from error
    for name, resource in RAY_RESOURCES.items():
        wanted = launcher.ray.remote.get(name) or 0
        most = max(node.get(resource, 0) for node in _ray_nodes())
        if wanted > most:
            raise ConfigError(
                f"hydra.launcher.ray.remote.{name}={wanted}: no node of the cluster has more than {most:g}"
            )


def arrange_launcher(launcher: DictConfig, jobs: int, config: Mapping[str, Any]) -> str:
    """Divide what there is among `jobs` runs, in the launcher's config; returns it in words."""
    package = _package(launcher)
    if package == "hydra_joblib_launcher":
        return _arrange_joblib(launcher, jobs, config)
    if package == "hydra_ray_launcher":
        return f"on {count(len(_ray_nodes()), 'Ray node')}"
    if package == "hydra_submitit_launcher":
        threads = os.environ.setdefault("OMP_NUM_THREADS", str(launcher.cpus_per_task))
        return f"submitted as jobs with {count(int(threads), 'CPU thread')} each"
    return ""


def _arrange_joblib(launcher: DictConfig, jobs: int, config: Mapping[str, Any]) -> str:
    import joblib

    places, gpus = _count_places(config)
    side_by_side = min(jobs, places if launcher.n_jobs == -1 else launcher.n_jobs)
    with read_write(launcher):
        launcher.n_jobs = side_by_side
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # Hydra has some before a run has its log
    # joblib itself gives each process its share of the cores.
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, joblib.cpu_count() // side_by_side)))
    words = f"{side_by_side} side by side, {count(threads, 'CPU thread')} each"
    return words + (f", {count(gpus, 'GPU')}" if gpus else "")


def _count_places(config: Mapping[str, Any]) -> tuple[int, int]:
    """How many runs this machine has room for, and its GPUs."""
    import joblib

    gpus = count_gpus(config["trainer"])
    return (gpus * config["sweep"]["jobs_per_gpu"] if gpus else joblib.cpu_count()), gpus


def _ray_nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def stop_launched() -> None:
    """End what a launcher has started in processes of its own."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    if "joblib" in sys.modules:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def count_gpus(trainer: Mapping[str, Any]) -> int:
    """The CUDA GPUs that these Trainer settings let a run use."""
    if trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def take_gpu(settings: dict[str, Any], launcher: Mapping[str, Any], sweep: Path) -> Iterator[dict[str, Any]]:
    """The settings with a GPU that is free, if the launcher starts several runs on a machine with GPUs.

    They are dealt out by lock files in the sweep's directory: joblib replaces its processes at times, so that
    with a GPU for each process some GPUs would get two and others none.

    Raises:
        CnnLabError: when all are taken, which is so only beside runs of a sweep that was killed.
    """
    gpus = count_gpus(settings["trainer"]) if _package(launcher) == "hydra_joblib_launcher" else 0
    if not gpus:
        yield settings
        return
    for place in range(settings["sweep"]["jobs_per_gpu"]):
        for gpu in range(gpus):
            try:
                taken = FileLock(sweep / f".gpu{gpu}-{place}.lock").acquire(timeout=0)
            except Timeout:
                continue
            with taken:
                yield {**settings, "trainer": {**settings["trainer"], "devices": [gpu]}}
            return
    raise CnnLabError("other runs of this sweep use all GPUs; continue it when they have ended")


def _package(launcher: Mapping[str, Any]) -> str:
    return str(launcher["_target_"]).split(".")[1]
