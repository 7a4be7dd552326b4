"""Time this project against the article's own loop and against a bare loop, and its start-up.

    python benchmarks/speed.py [epochs] [networks] [starts] [pairs] [--accelerator gpu] [--rounds 3] [--output FILE]

Every round runs one epoch of each contender in turn, 60,000 training and 10,000 test images, each in a
process of its own; of the larger networks 3,000 and 1,000 made-up images of 3 x 32 x 32. The tables have medians
over the rounds: of the seconds, and of the ratios within a round. `pairs` trains alone and two at once, on a
machine that does nothing else, for several numbers of turns that OpenMP's threads spin before they sleep.
"""

import argparse
import contextlib
import functools
import io
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from cnn_lab.assembly import assemble
from cnn_lab.datasets import Split
from cnn_lab.runs.record import read_rows
from cnn_lab.sampling import BatchIndices
from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.settings.environment import SPIN_COUNT
from cnn_lab.sources.idx import read_mnist
from cnn_lab.terminal.logs import hold_logs
from cnn_lab.trainer import choose_hardware, tune_cpu
from cnn_lab.training import train


def find_device(accelerator: str) -> torch.device:
    """The device that this project would take."""
    return torch.device(choose_hardware({"accelerator": accelerator, "precision": "auto"})["accelerator"])


class ArticleNet(nn.Module):
    """The article's network as one writes it first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 64 * 7 * 7)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


def write_mnist(root: Path) -> None:
    """MNIST as torchvision reads it: four IDX files in root/MNIST/raw."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for (images, labels), name in zip(read_mnist().values(), ("train", "t10k"), strict=True):
        for content, kind in ((images[:, 0], "images-idx3"), (labels.astype("uint8"), "labels-idx1")):
            header = struct.pack(f">HBB{content.ndim}I", 0, 8, content.ndim, *content.shape)  # 8: bytes
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + content.tobytes())


def time_article(accelerator: str) -> float:
    """The article's loop: a transform a sample, and the loss and accuracy read back at every step."""
    device = find_device(accelerator)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    with tempfile.TemporaryDirectory() as root:
        write_mnist(Path(root))
        loaders = {
            is_train: DataLoader(datasets.MNIST(root, is_train, transform), 64, shuffle=is_train)
            for is_train in (True, False)
        }
    net = ArticleNet().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)

    start = time.perf_counter()
    net.train()
    total_loss, correct = 0.0, 0
    for images, labels in loaders[True]:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = net(images)
        loss = F.cross_entropy(outputs, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        correct += (outputs.argmax(1) == labels).sum().item()
    net.eval()
    with torch.no_grad():
        for images, labels in loaders[False]:
            images, labels = images.to(device), labels.to(device)
            outputs = net(images)
            total_loss += F.cross_entropy(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    return time.perf_counter() - start


@functools.cache
def read_noise(root: str) -> dict[str, Split]:
    """Made-up images in the shape of CIFAR-10's."""
    sizes = {"train": 3_000, "test": 1_000}
    return {
        name: Split(torch.randint(256, (size, 3, 32, 32)).byte(), torch.arange(size) % 10)
        for name, size in sizes.items()
    }


def compose_epoch(accelerator: str, precision: str, network: str) -> dict[str, Any]:
    """The settings of one epoch of `experiment=article`, of another network on made-up images."""
    overrides = ["experiment=article", "trainer.max_epochs=1", f"model={network}"]
    overrides += [f"trainer.accelerator={accelerator}", f"trainer.precision={precision}"]
    if network != "cnn":
        overrides += ["data=cifar10", "data.source._target_=speed.read_noise"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return check_config(compose("train", overrides))


def time_bare(accelerator: str, precision: str, network: str = "cnn") -> float:
    """This project's operations in a plain loop, without Lightning."""
    tune_cpu()
    device = find_device(accelerator)
    data, classifier = assemble(compose_epoch(accelerator, precision, network))
    data.setup()
    net = classifier.net.to(device)
    optimizer = classifier.make_optimizer(net.parameters())
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def batches(split: str, size: int, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
        dataset, indices = data._sets[split]
        for index in BatchIndices(indices, size, shuffle):
            batch = [part.to(device) for part in dataset[index]]
            yield data.on_after_batch_transfer(batch, 0)

    def measure(loss: Tensor, logits: Tensor, labels: Tensor, sums: list[Tensor]) -> None:
        sums[0] += loss.detach() * len(labels)
        sums[1] += (logits.detach().argmax(dim=1) == labels).sum()

    start = time.perf_counter()
    sums = [torch.zeros((), device=device) for _ in range(4)]
    net.train()
    for images, labels in batches("train", data.batch_size, shuffle=True):
        with autocast:
            logits = net(images)
            loss = F.cross_entropy(logits, labels)
        measure(loss, logits, labels, sums[:2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode(), autocast:
        for images, labels in batches("test", data.eval_batch_size, shuffle=False):
            logits = net(images)
            measure(F.cross_entropy(logits, labels), logits, labels, sums[2:])
    _ = [value.item() for value in sums]
    return time.perf_counter() - start


def time_ours(accelerator: str, precision: str, network: str = "cnn") -> float:
    """An epoch as its metrics.csv has it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        hold_logs()
        run = train(compose_epoch(accelerator, precision, network), Path(folder))
        hold_logs()
    return run.rows[0]["seconds"]


def run_script(*command: str) -> tuple[float, float, str]:
    """Wall seconds, peak memory in GB and standard output of a Python script in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    output, _, memory = done.stdout.rpartition("\n")
    return seconds, int(memory) / 1e6, output  # Linux counts kilobytes


# A child's peak memory counts from the parent's at the fork, so that it takes a small parent to measure it.
MEASURED = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], stderr=subprocess.DEVNULL)
print("\\n" + str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), end="")
"""


def time_contenders(names: Sequence[str], accelerator: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            _, _, output = run_script(__file__, "--accelerator", accelerator, "--time", name)
            seconds[name].append(float(output))
            print(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def compare_networks(accelerator: str, rounds: int) -> list[str]:
    """The table of larger networks on made-up images, as lines of Markdown."""
    seconds = time_contenders(list(NETWORKS), accelerator, rounds)
    lines = ["| one epoch | bare loop, s | cnn-lab, s | Lightning's share |", "|---|---|---|---|"]
    for network in ("vgg", "resnet"):
        bare, ours = (seconds[f"{network}, {loop}"] for loop in ("bare loop", "cnn-lab"))
        share = statistics.median(a / b - 1 for a, b in zip(ours, bare, strict=True))
        lines.append(
            f"| {network} | {statistics.median(bare):.2f} | {statistics.median(ours):.2f} | {share:.1%} |"
        )
    return lines


def compare_epochs(accelerator: str, rounds: int) -> list[str]:
    """The epoch table, as lines of Markdown."""
    chosen = choose_hardware({"accelerator": accelerator, "precision": "auto"})
    names = [name for name in CONTENDERS if "bf16" not in name or chosen["precision"] == "bf16-mixed"]
    seconds = time_contenders(names, accelerator, rounds)
    lines = ["| one epoch | seconds | times as fast as the article's loop |", "|---|---|---|"]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[names[0]], values, strict=True))
        lines.append(f"| {name} | {statistics.median(values):.2f} | {ratio:.2f} |")
    for precision in ("float32", "bf16"):
        ours, bare = seconds.get(f"cnn-lab, {precision}"), seconds.get(f"bare loop, {precision}")
        if ours and bare:
            share = statistics.median(a / b - 1 for a, b in zip(ours, bare, strict=True))
            lines.append(f"| Lightning's share, {precision} | {share:.1%} | |")
    return lines


CONTENDERS: dict[str, Callable[[str], float]] = {
    "the article's loop, float32": time_article,
    "bare loop, float32": functools.partial(time_bare, precision="32-true"),
    "cnn-lab, float32": functools.partial(time_ours, precision="32-true"),
    "bare loop, bf16": functools.partial(time_bare, precision="bf16-mixed"),
    "cnn-lab, bf16": functools.partial(time_ours, precision="bf16-mixed"),
}
NETWORKS: dict[str, Callable[[str], float]] = {
    f"{network}, {loop}": functools.partial(time, precision="32-true", network=network)
    for network in ("vgg", "resnet")
    for loop, time in (("bare loop", time_bare), ("cnn-lab", time_ours))
}


def measure_starts(accelerator: str, rounds: int) -> list[str]:
    """The start-up table, as lines of Markdown."""
    script = str(PROJECT / "scripts" / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        base = [f"output_dir={folder}", f"trainer.accelerator={accelerator}"]
        commands = {
            "`--help`": ["--help"],
            "`--cfg job`": ["--cfg", "job"],
            "a refused override": ["model.chanels=[8]"],
            "a whole run of one step": [*base, "trainer.max_steps=1", "trainer.limit_val_batches=1"],
            "a default run of two epochs": [*base, "trainer.max_epochs=2"],
        }
        lines = ["| `python scripts/train.py` | seconds | peak memory, GB |", "|---|---|---|"]
        for name, arguments in commands.items():
            runs = [run_script(script, *arguments) for _ in range(rounds)]
            seconds, memory = (statistics.median(run[index] for run in runs) for index in (0, 1))
            lines.append(f"| {name} | {seconds:.2f} | {memory:.2f} |")
    return lines


SPIN_COUNTS = ("0", "300", SPIN_COUNT, "3000", "10000", "300000")  # the last is libgomp's own


def measure_pairs(accelerator: str, rounds: int) -> list[str]:
    """The table of runs alone and two at once, as lines of Markdown."""
    alone: dict[str, list[float]] = {count: [] for count in SPIN_COUNTS}
    paired: dict[str, list[float]] = {count: [] for count in SPIN_COUNTS}
    for number in range(rounds):
        for count in SPIN_COUNTS:
            alone[count] += train_at_once(1, accelerator, count)
            paired[count].append(statistics.mean(train_at_once(2, accelerator, count)))
            print(
                f"round {number + 1}: {count}: {alone[count][-1]:.2f} s, {paired[count][-1]:.2f} s",
                file=sys.stderr,
            )
    lines = [
        "| GOMP_SPINCOUNT | alone, s | to libgomp's own | each of two, s | to one alone |",
        "|---|---|---|---|---|",
    ]
    own = alone[SPIN_COUNTS[-1]]
    for count in SPIN_COUNTS:
        slower = statistics.median(a / b for a, b in zip(alone[count], own, strict=True))
        ratio = statistics.median(a / b for a, b in zip(paired[count], alone[count], strict=True))
        one, two = statistics.median(alone[count]), statistics.median(paired[count])
        lines.append(f"| {count} | {one:.2f} | {slower:.2f} | {two:.2f} | {ratio:.2f} |")
    return lines


def train_at_once(runs: int, accelerator: str, spin_count: str) -> list[float]:
    """Seconds of 400 steps of the default run, in each of so many processes that start together."""
    script = str(PROJECT / "scripts" / "train.py")
    environment = {**os.environ, "GOMP_SPINCOUNT": spin_count}
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, str(number)) for number in range(runs)]
        typed = [f"trainer.accelerator={accelerator}", "trainer.max_steps=400", "trainer.limit_val_batches=1"]
        processes = [
            subprocess.Popen(
                [sys.executable, script, *typed, "pictures.enabled=false", f"output_dir={folder}"],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for folder in folders
        ]
        for process in processes:
            process.wait()
        return [read_rows(next(folder.glob("runs/*")))[0]["seconds"] for folder in folders]


PARTS = {
    "epochs": compare_epochs,
    "networks": compare_networks,
    "starts": measure_starts,
    "pairs": measure_pairs,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="|".join(PARTS), help="only these")
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu (default: cpu)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument(
        "--time", choices=CONTENDERS | NETWORKS, help="only time one epoch of this, and print the seconds"
    )
    arguments = parser.parse_args()
    if arguments.time:
        print((CONTENDERS | NETWORKS)[arguments.time](arguments.accelerator))
        return
    parts = [PARTS[name](arguments.accelerator, arguments.rounds) for name in arguments.parts or PARTS]
    text = "\n\n".join("\n".join(lines) for lines in parts) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
