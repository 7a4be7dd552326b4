"""The Trainer: which device and precision a run gets, and Lightning's Trainer for them."""

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer

from cnn_lab.assembly import make
from cnn_lab.errors import ConfigError, count

# glibc's mallopt parameters, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc takes no more
COPYING_STRATEGIES = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def choose_hardware(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings with its accelerator and its precision named where they say "auto".

    Raises:
        ConfigError: for a GPU where there is none, more processes than there are cores, and ways to
            start processes that do not work.
    """
    accelerator = settings.get("accelerator", "auto")
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator == "auto":
        accelerator = found or "cpu"
    elif accelerator == "gpu":
        if not found:
            build = "" if torch.version.cuda else " (this PyTorch is built without CUDA)"
            raise ConfigError(
                f"trainer.accelerator=gpu: PyTorch finds no GPU on this machine, only a {_describe_cpu()}"
                f"{build}; type trainer.accelerator=cpu or auto"
            )
        accelerator = found
    _check_processes(settings, accelerator)
    precision = settings.get("precision", "auto")
    if precision == "auto":
        precision = "bf16-mixed" if has_bfloat16(accelerator) else "32-true"
    return {**settings, "accelerator": accelerator, "precision": precision}


def _check_processes(settings: Mapping[str, Any], accelerator: str) -> None:
    strategy = str(settings.get("strategy", "auto"))
    if strategy.startswith(COPYING_STRATEGIES):
        raise ConfigError(
            f"trainer.strategy={strategy} copies a running process, which breaks the run's record; "
            "type trainer.strategy=ddp"
        )
    devices, cores = str(settings.get("devices", 1)), os.cpu_count() or 1
    if accelerator == "cpu" and devices.isdecimal() and int(devices) > cores:
        raise ConfigError(
            f"trainer.devices={devices} would start {devices} processes on a CPU with "
            f"{count(cores, 'core')}; type trainer.devices=1"
        )


def has_bfloat16(accelerator: str) -> bool:
    """Whether the hardware itself computes in bfloat16, so that it is faster there than float32."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False


def describe_device(trainer: Trainer) -> str:
    """The device in words, such as "CPU with 2 threads" or "NVIDIA H100 80GB HBM3"."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name
    return _describe_cpu() if device.type == "cpu" else device.type


def _describe_cpu() -> str:
    threads = torch.get_num_threads()
    return f"CPU with {count(threads, 'thread')}"


def make_trainer(settings: Mapping[str, Any], plugins: Sequence[Any] = (), **supplied: Any) -> Trainer:
    """Lightning's Trainer with the config's settings, "auto" as this machine has it, and what is supplied.

    It starts its processes itself, on a cluster too: Lightning's own environments there would take tasks of
    the job for them, and resume from checkpoints that they find in the working directory.

    Raises:
        ConfigError: for hardware that is not here, and for settings that Lightning refuses.
    """
    chosen = choose_hardware(settings)
    torch.backends.cudnn.allow_tf32 = False  # else convolutions in "32-true" round to 10 bits on GPUs
    return make(
        "trainer",
        chosen,
        Trainer,
        **supplied,
        plugins=[LightningEnvironment(), *plugins],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def check_training(settings: Mapping[str, Any], is_fused: bool) -> None:
    """Reject what `choose_hardware` returned where it can evaluate a network and cannot train one.

    Args:
        is_fused: whether the optimizer computes a step in one kernel.

    Raises:
        ConfigError: for a precision in which weights do not learn or that this device lacks, for settings
            that do not go together, and for a run that would end without a result.
    """
    is_cpu, precision = settings["accelerator"] == "cpu", str(settings["precision"])
    is_scaled = precision in ("16", "16-mixed")
    problem = ""
    if is_scaled and is_cpu:  # Lightning would take another
        problem = f"precision={precision} needs a GPU; type trainer.precision=bf16-mixed"
    elif precision == "16-true":
        problem = (
            "precision=16-true does not train: in float16, small gradients and Adam's eps become 0; "
            "type trainer.precision=bf16-true"
        )
    elif settings.get("sync_batchnorm") and is_cpu:
        problem = "sync_batchnorm=true needs GPUs; type trainer.sync_batchnorm=false"
    elif is_scaled and is_fused and settings.get("gradient_clip_val"):
        problem = (
            f"gradient_clip_val={settings['gradient_clip_val']} cannot be combined with trainer.precision="
            f"{precision} and optimizer.fused=true; type optimizer.fused=false"
        )
    elif settings.get("limit_test_batches") == 0:
        problem = (
            "limit_test_batches=0 leaves no test image, so the run would end without a result; "
            "type trainer.limit_test_batches=1 for one batch"
        )
    if problem:
        raise ConfigError(f"trainer.{problem}")


def is_endless(trainer: Trainer) -> bool:
    """Whether only a signal, a time limit or a callback ends the run."""
    return trainer.max_epochs in (None, -1) and trainer.max_steps == -1


def count_images(trainer: Trainer) -> dict[str, int]:
    """The images of each split that an epoch or the test takes, once the trainer's data module is set up.

    Those of "val" are of the split that is watched.

    Raises:
        ConfigError: for less than one batch, which Lightning would refuse for test images only after
            training, and for fewer images than there are processes.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    counts = {}
    for split in ("train", "val", "test"):
        limit = getattr(trainer, f"limit_{split}_batches")
        size = data.sizes[data.watched if split == "val" else split]
        batches = len(getattr(data, f"{split}_dataloader")())
        if 0 < size < trainer.world_size:
            raise ConfigError(
                f"trainer.devices={trainer.world_size}: each process needs one of the {split} images, and "
                f"there are {size}; type trainer.devices={size}"
            )
        if isinstance(limit, float) and 0 < limit * batches < 1:
            raise ConfigError(
                f"trainer.limit_{split}_batches={limit} is less than one of {batches} batches; "
                f"type trainer.limit_{split}_batches=1 for one of them"
            )
        taken = int(limit * batches) if isinstance(limit, float) else min(limit, batches)
        batch_size = data.batch_size if split == "train" else data.eval_batch_size
        counts[split] = size if taken == batches else taken * batch_size * trainer.world_size
    return counts


def tune_cpu() -> None:
    """Take two losses of time out of training on a CPU.

    Freed memory stays with the process: by default glibc returns large buffers to the system after each use,
    and every step pays for getting the same pages again. And numbers below 1e-38, into which Adam's averages
    decay where a gradient stays zero, count as zero: many processors compute with them far more slowly.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
