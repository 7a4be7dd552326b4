"""How many runs of a sweep go side by side, with how many threads each, and on which GPU.

Importing this does not import torch.
"""

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf, read_write

from cnn_lab.config import PROJECT
from cnn_lab.errors import ConfigError
from cnn_lab.screen import shorten

EXTRAS = {
    "hydra_joblib_launcher": "parallel",
    "hydra_ray_launcher": "ray",
    "hydra_submitit_launcher": "slurm",
}
GPU_POLL_SECONDS = 0.5


def check_launcher(launcher: DictConfig, trainer: Mapping[str, Any]) -> None:
    """Refuse at once what every run would fail for.

    Raises:
        ConfigError: for a launcher that is not installed, or a GPU that is not here.
    """
    package = _package(launcher)
    if package in EXTRAS and importlib.util.find_spec(f"hydra_plugins.{package}") is None:
        raise ConfigError(
            f"the launcher {package.removeprefix('hydra_')} is not installed; {install_hint(EXTRAS[package])}"
        )
    runs_here = package in ("_internal", "hydra_joblib_launcher")
    if runs_here and trainer.get("accelerator") == "gpu":
        from cnn_lab.trainer import choose_hardware

        choose_hardware(trainer)


def install_hint(extra: str) -> str:
    """What to type for an extra that is missing."""
    return f"type: pip install -e '{shorten(PROJECT)}[{extra}]'"


def arrange_launcher(launcher: DictConfig, jobs: int, config: Mapping[str, Any]) -> str:
    """Divide what there is among `jobs` runs; returns what was arranged, in words.

    Raises:
        ConfigError: when a run asks for more than there is.
    """
    package = _package(launcher)
    if package == "hydra_joblib_launcher":
        return _arrange_joblib(launcher, jobs, config)
    if package == "hydra_ray_launcher":
        return _arrange_ray(launcher, jobs)
    if package == "hydra_submitit_launcher":
        threads = os.environ.setdefault("OMP_NUM_THREADS", str(launcher.cpus_per_task))
        return f"submitted as jobs with {_count(int(threads), 'CPU thread')} each"
    return ""


def _arrange_joblib(launcher: DictConfig, jobs: int, config: Mapping[str, Any]) -> str:
    import joblib

    cores = joblib.cpu_count()
    gpus, share = count_gpus(config["trainer"]), config["sweep"]["jobs_per_gpu"]
    places = gpus * share if gpus else cores
    if gpus and launcher.n_jobs > places:
        raise ConfigError(
            f"hydra.launcher.n_jobs={launcher.n_jobs}: there are {gpus} GPUs, with {share} jobs on each; "
            f"type hydra.launcher.n_jobs={places}, or have more jobs on each with sweep.jobs_per_gpu"
        )
    side_by_side = min(jobs, places if launcher.n_jobs == -1 else launcher.n_jobs)
    with read_write(launcher):
        launcher.n_jobs = side_by_side
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # Hydra has some before a run has its log
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // side_by_side)))
    devices = f", {_count(gpus, 'GPU')}" if gpus else ""
    return f"{side_by_side} side by side, {_count(int(threads), 'CPU thread')} each{devices}"


def _arrange_ray(launcher: DictConfig, jobs: int) -> str:
    import ray

    if not ray.is_initialized():  # here, since the launcher passes on what a running cluster refuses
        settings = OmegaConf.to_container(launcher.ray.init, resolve=True)
        ray.init(**{key: value for key, value in settings.items() if value is not None})
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = [min(jobs, 10**6)] * len(nodes)
    for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted = launcher.ray.remote.get(name) or 0
        if wanted > max(node.get(resource, 0) for node in nodes):
            most = max(node.get(resource, 0) for node in nodes)
            raise ConfigError(
                f"hydra.launcher.ray.remote.{name}={wanted}: no node of the cluster has more than {most:g}"
            )
        if wanted:
            places = [
                min(place, int(node.get(resource, 0) / wanted + 1e-9))
                for place, node in zip(places, nodes, strict=True)
            ]
    return f"{min(jobs, sum(places))} side by side on {_count(len(nodes), 'Ray node')}"


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

    They are dealt out by lock files in the sweep's directory, which the system releases however a run ends.
    """
    gpus = count_gpus(settings["trainer"]) if _package(launcher) == "hydra_joblib_launcher" else 0
    if not gpus:
        yield settings
        return
    places = [(gpu, place) for place in range(settings["sweep"]["jobs_per_gpu"]) for gpu in range(gpus)]
    while True:
        for gpu, place in places:
            lock = FileLock(sweep / f".gpu{gpu}-{place}.lock", timeout=0)
            with contextlib.suppress(Timeout), lock:
                yield {**settings, "trainer": {**settings["trainer"], "devices": [gpu]}}
                return
        time.sleep(GPU_POLL_SECONDS)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _package(launcher: Mapping[str, Any]) -> str:
    return str(launcher["_target_"]).split(".")[1]
