"""Where things lie: all in the checkout, or, for an installed package, in the working directory.

Nothing here imports torch.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1].resolve()
CHECKOUT = PACKAGE.parents[1]
IS_CHECKOUT = (CHECKOUT / "scripts" / "train.py").is_file() and (CHECKOUT / "conf").is_dir()
PROJECT = CHECKOUT if IS_CHECKOUT else Path.cwd()
CONF = CHECKOUT / "conf" if IS_CHECKOUT else PACKAGE / "conf"  # this project's options, and nobody else's
DATA = PROJECT / "data"
OUTPUTS = PROJECT / "outputs"


def name_command(name: str) -> str:
    """One of this project's commands, as its pages and its help name it."""
    return f"python scripts/{name}.py" if IS_CHECKOUT else f"cnn-lab {name}"


def find_own_conf() -> Path | None:
    """The `conf/` in an installed package's working directory, if it has options for our groups."""
    folder = PROJECT / "conf"
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    named_alike = groups & {path.parent.name for path in folder.glob("*/*.yaml")}
    return folder if named_alike and not IS_CHECKOUT else None
