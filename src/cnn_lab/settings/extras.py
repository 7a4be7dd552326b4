"""The extras of the package: what to type for one that is missing."""

import shlex

from cnn_lab.settings.config import PROJECT


def install_hint(extra: str) -> str:
    """What to type for an extra that is missing."""
    return f"type: pip install -e {shlex.quote(f'{PROJECT}[{extra}]')}"
