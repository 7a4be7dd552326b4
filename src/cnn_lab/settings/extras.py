"""The extras of the package: what to type for one that is missing."""

import shlex

from cnn_lab.settings.places import IS_CHECKOUT, PROJECT


def install_hint(extra: str) -> str:
    """What to type for an extra that is missing."""
    package = f"-e {shlex.quote(f'{PROJECT}[{extra}]')}" if IS_CHECKOUT else f"'cnn-lab[{extra}]'"
    return f"type: pip install {package}"
