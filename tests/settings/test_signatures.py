import inspect

import hydra.utils
import pytest
import torch  # noqa: F401 - so that `inspect` sees what the source reading must find without it

from cnn_lab.runs.trust import list_targets
from cnn_lab.settings.signatures import read_signature

MORE = {"torch.optim.NAdam", "torch.optim.lr_scheduler.StepLR", "cnn_lab.settings.config.Config"}
TARGETS = sorted(MORE.union(*list_targets().values()))


# One takes what wandb.init takes, the other comes from a * import.
UNTOLD = {"lightning.pytorch.loggers.WandbLogger", "torch.nn.CrossEntropyLoss"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_source_says_what_inspect_says(target: str) -> None:
    found = read_signature(target)
    if target in UNTOLD:
        assert found is None
        return
    actual = inspect.signature(hydra.utils.get_object(target)).parameters
    assert list(found) == list(actual)
    for name, parameter in actual.items():
        assert found[name].required == (parameter.default is parameter.empty), name


@pytest.mark.parametrize("target", ["torch.optim.Adamm", "no_such_package.Thing", "cnn_lab.model", "x"])
def test_what_is_not_there_is_said(target: str) -> None:
    with pytest.raises(LookupError, match=r"there is no|no module|is a module"):
        read_signature(target)


@pytest.mark.parametrize(
    ("target", "name", "good", "bad"),
    [
        ("torch.optim.Adam", "lr", [0.1, 1], ["high", True, [0.1], None]),
        ("torch.optim.Adam", "betas", [[0.9, 0.99]], [[0.9], 0.9, [0.9, "x"]]),
        ("torch.optim.Adam", "fused", [True, None], ["yes", 1]),
        ("lightning.pytorch.Trainer", "max_epochs", [3, None], [3.5, "ten", True]),
        ("lightning.pytorch.Trainer", "devices", [1, "auto", [0, 1]], [1.5, None]),
        ("cnn_lab.model.CNN", "channels", [[8, 16], []], [8, "8", [8, "x"]]),
        ("cnn_lab.model.CNN", "hidden", [[8, 16], 8], ["8", None]),
        ("cnn_lab.model.CNN", "paddings", [1, "same", [1, "same"]], [1.5, None]),
        ("cnn_lab.data.ImageDataModule", "root", ["data", None], [3]),
        ("cnn_lab.settings.config.Config", "seed", [1], [1.5, "one", None]),
    ],
)
def test_types_are_checked(target: str, name: str, good: list, bad: list) -> None:
    parameter = read_signature(target)[name]
    assert [parameter.accepts(value) for value in good] == [True] * len(good)
    assert [parameter.accepts(value) for value in bad] == [False] * len(bad)
