"""A network that is not this project's: the guide's own text, and what may be wrong with another."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnn_lab.assembly import make_network, measure
from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.runs.resume import plan_resume
from cnn_lab.settings.places import PROJECT
from cnn_lab.sweeps.results import collect
from conftest import FAST, only_run, read_result, run_script, train_command

GUIDE = (PROJECT / "docs" / "own.md").read_text()
SECTION = re.search(r"## Your own network\n(.*?)\n##", GUIDE, re.DOTALL)[1]
MODULE = re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1]
ONE, SEVERAL, MEASURE = re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1].splitlines()
REFUSED = "uses code from outside the project (model._target_=my_nets.MyNet). If you trust it, add "
IMAGES = {"input_shape": (1, 28, 28), "num_classes": 10}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the guide's module, and a run of its command."""
    place = tmp_path_factory.mktemp("place")
    (place / "my_nets.py").write_text(MODULE)
    done = train_command(*shlex.split(ONE)[2:], *FAST, "trainer.max_epochs=1", "output_dir=out", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "layers.0  Conv2d 3x3   32 x 28 x 28         320        225,792" in done.stdout
    assert "total                                    16,074        266,560" in done.stdout
    assert "--trust" in done.stdout
    return place


def test_it_trains_with_its_own_settings_and_no_others(place: Path) -> None:
    run = only_run(place / "out")
    assert "-model-MyNet_width-32_train_size-4000_" in run.name
    assert (read_result(run)["status"], read_result(run)["parameters"]) == ("completed", 16_074)
    assert "model:\n  _target_: my_nets.MyNet\n  width: 32\n" in (run / "config.yaml").read_text()


def test_its_runs_are_used_if_the_user_says_that_they_are_theirs(place: Path) -> None:
    run = str(only_run(place / "out"))
    assert MEASURE == "python scripts/evaluate.py --trust"
    measured = json.loads(run_script("evaluate.py", run, "--trust", "--json", cwd=place).stdout)
    assert measured["images"] == 500
    exported = run_script("export.py", run, "--format", "torch", "--trust", cwd=place)
    assert "the same class on all" in exported.stdout, exported.stderr
    explained = run_script("explain.py", run, "--trust", cwd=place)
    assert (explained.returncode, explained.stderr.count("\n")) == (2, 1)
    assert "explain needs a network with convolutional blocks" in explained.stderr
    resumed = train_command(f"resume={run}", "trainer.max_epochs=2", "trust=true", cwd=place)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert read_result(Path(run))["epochs"] == 2
    assert collect([Path(run)])[0].settings["model.width"] == 32


def test_a_sweep_over_its_settings_is_run_and_resumed(place: Path) -> None:
    small = [*FAST, "trainer.max_epochs=1", "pictures.enabled=false", "output_dir=swept"]
    for more, total in (("", 2), (",48", 3)):
        typed = [*shlex.split(SEVERAL + more)[2:], *small, *(["sweep.resume=latest"] if more else [])]
        done = train_command(*typed, cwd=place)
        assert (done.returncode, done.stderr) == (0, "")
        results = [json.loads(path.read_text()) for path in (place / "swept").rglob("result.json")]
        assert [result["status"] for result in results] == ["completed"] * total
    assert {result["parameters"] for result in results} == {8_042, 16_074, 24_106}


def test_a_stranger_s_module_is_not_imported(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(only_run(place / "out"), tmp_path / "run")
    (run / "my_nets.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n{MODULE}")
    done = run_script("evaluate.py", ".", cwd=run)
    assert (done.returncode, done.stdout, done.stderr) == (
        2, "", f"Error: checkpoints/best.ckpt {REFUSED}--trust\n"
    )  # fmt: skip
    with pytest.raises(ConfigError, match=re.escape(f"{run} {REFUSED}trust=true")):
        plan_resume(str(run), ["trainer.max_epochs=9"], tmp_path)
    assert not (tmp_path / "mark").exists()


WRONG = """\
from torch import nn

class Fails(nn.Module):
    def forward(self, images):
        return self.help(images)

    def help(self, images):
        return nn.Linear(100, 10)(images.flatten(1))

class Five(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :5]

class Typo(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(num_clases, 5)
"""
MISTAKES = {
    "Fails": (1, (
        "Error: wrong.Fails, given images (2, 1, 28, 28), fails: RuntimeError: mat1 and mat2 shapes cannot be multiplied "
        "(2x784 and 100x10)\n  wrong.py, line 5, in forward: return self.help(images)\n"
        "  wrong.py, line 8, in help: return nn.Linear(100, 10)(images.flatten(1))\n"
    )),
    "Five": (1, (
        "Error: wrong.Five, given images (2, 1, 28, 28), returns (2, 5): it must return (2, 10), one logit per class\n"
    )),
    "Typo": (2, (
        "Error: model: name 'num_clases' is not defined\n"
        "  wrong.py, line 17, in __init__: self.head = nn.Linear(num_clases, 5)\n"
    )),
    "Typo model.width=3": (2, "Error: wrong.Typo has no setting 'width' (it has none)\n"),
}  # fmt: skip


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_in_it_is_told_in_its_own_lines(typed: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    target = f"model._target_=wrong.{typed}".split()
    done = train_command(*target, "output_dir=out", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (MISTAKES[typed][0], "", MISTAKES[typed][1])
    assert not list(tmp_path.glob("out/runs/*"))


def test_what_is_no_python_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("class Net:\n    def forward(self:\n")
    done = train_command("model._target_=wrong.Net", cwd=tmp_path)
    assert done.stderr == (
        f"Error: model._target_=wrong.Net: {tmp_path}/wrong.py, line 2: '(' was never closed\n"
    )


class Noisy(nn.Module):
    """Has whatever a trial could change: a frozen part, averages, random numbers, tied and unused weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm2d(1)
        self.frozen = nn.Dropout().eval()
        self.first, self.second = nn.Linear(784, 784), nn.Linear(784, 784)
        self.second.weight = self.first.weight
        self.head, self.unused = nn.Linear(784, 10), nn.Linear(2, 3)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.rand_like(images) * self.scale.mean()
        return self.head(self.second(self.first((self.frozen(self.norm(images)) + noise).flatten(1))))


def test_measuring_changes_nothing_and_counts_each_weight_once() -> None:
    net = Noisy()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    rows = measure(net, **IMAGES)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert (net.training, net.norm.training, net.frozen.training) == (True, True, False)
    assert not any(module._forward_hooks for module in net.modules())
    assert [(row.name, row.output, row.parameters, row.multiply_adds) for row in rows] == [
        ("norm", (1, 28, 28), 2, 784),
        ("frozen", (1, 28, 28), 0, 0),
        ("first", (784,), 785 * 784, 784**2),
        ("second", (784,), 784, 784**2),
        ("head", (10,), 7_850, 7_840),
        ("Noisy", (10,), 3, 0),
        ("other weights", (), 9, 0),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Identity(),
            r"torch.nn.modules.linear.Identity, given images \(2, 1, 28, 28\), returns \(2, 1, 28, 28\): ",
        ),
        (lambda: nn.LSTM(28, 10), "fails: "),
    ],
)
def test_what_makes_no_logits_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(CnnLabError, match=message):
        measure(make(), **IMAGES)


def test_one_logit_may_stand_for_two_classes() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    assert measure(net, (1, 28, 28), num_classes=2)[-1].output == (1,)


def takes_nothing() -> nn.Module:
    return nn.Linear(1, 1)


def takes_all(**settings: Any) -> nn.Module:
    return nn.Linear(int(np.prod(settings["input_shape"])), settings["num_classes"])


def test_a_constructor_gets_what_it_takes() -> None:
    assert make_network({"_target_": f"{__name__}.takes_nothing"}, **IMAGES).in_features == 1
    assert make_network({"_target_": f"{__name__}.takes_all"}, **IMAGES).in_features == 784


def hands_on(**settings: Any) -> nn.Module:
    return takes_classes(**settings)


def takes_classes(num_classes: int, width: int = 784) -> nn.Module:
    return nn.Linear(width, num_classes)


def test_a_constructor_that_hands_its_settings_on_gets_what_that_takes() -> None:
    assert make_network({"_target_": f"{__name__}.hands_on"}, **IMAGES).out_features == 10
    with pytest.raises(ConfigError, match="unexpected keyword argument 'wdith'"):
        make_network({"_target_": f"{__name__}.hands_on", "wdith": 3}, **IMAGES)
