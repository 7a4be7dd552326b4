"""What the scripts share: every failure becomes one message on standard error and an exit code."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cnn_lab.errors import CnnLabError, ConfigError, printable, suggest
from cnn_lab.runs.lock import is_helper_process
from cnn_lab.settings.config import GROUPS, PROJECT, describe_unknown
from cnn_lab.terminal.logs import hold_logs

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own variable for a traceback
# Hydra's own settings that have a meaning here. Others would let it write where no run looks for its files.
HYDRA_SETTINGS = ("launcher", "sweeper", "mode", "verbose", "searchpath", "job.env_set", "help")
TRACEBACK_ASKED_FOR = os.environ.get(FULL_ERROR) == "1"


def run_command(main: Callable[[], None]) -> None:
    """Run a script's main function and exit: 0, 1 for what failed, 2 for a mistake in what was typed."""
    hold_logs()
    os.environ[FULL_ERROR] = "1"  # so that Hydra raises its errors instead of printing them
    try:
        if not is_helper_process():  # Lightning adds some when it starts one
            _check_hydra_settings(sys.argv[1:])
        main()
    except CnnLabError as error:
        fail(error)
    except Exception as error:
        if not _is_hydras(error):
            raise
        explained = ConfigError(explain(error))
        explained.__cause__ = error
        fail(explained)
    except KeyboardInterrupt:
        sys.exit(130)


def _is_hydras(error: Exception) -> bool:
    """Whether Hydra raised it, or stumbled over what was typed."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("hydra", "omegaconf", "antlr4")


def _check_hydra_settings(typed: Sequence[str]) -> None:
    for override in typed:
        found = re.match(r"\s*[+~]*\s*hydra(?:[./](?P<name>[^=@]*))?\s*(?:[=@]|$)", override)
        name = (found["name"] or "").strip() if found else ""
        if found and not re.match(rf"({'|'.join(HYDRA_SETTINGS)})([./]|$)", name):
            raise ConfigError(
                f"{override:.100} cannot be set: of Hydra's own settings there are "
                + ", ".join(f"hydra.{item}" for item in HYDRA_SETTINGS)
            )


def fail(error: CnnLabError) -> NoReturn:
    """Print an error's message and exit with its code."""
    if TRACEBACK_ASKED_FOR:
        traceback.print_exception(error)
    sys.stderr.write(f"Error: {printable(str(error))}\n")
    sys.exit(error.exit_code)


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, in the words of this project."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = [str(name) for name in error.options or ()]
        if options:
            near = suggest(option, options)
            return f"{group}={option} is not an option{near} (there are {', '.join(options)})"
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read as KEY=VALUE: {error.message.splitlines()[0]}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return describe_unknown(_compose_choices(), cause.full_key)
    if isinstance(cause, ValidationError) and cause.full_key:
        return f"{cause.full_key} has the wrong type: {str(cause).splitlines()[0]}"
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return f"what was typed cannot be read ({error}): give GROUP=OPTION, KEY=VALUE or +KEY=VALUE"
    return "\n".join(line for line in str(error).splitlines() if not line.startswith("See https://"))


def _compose_choices() -> DictConfig:
    """The config with the options that were chosen on the command line, and none of its other values."""
    typed = [
        argument
        for argument in sys.argv[1:]
        if argument.partition("=")[0] in GROUPS or argument.startswith("hydra/")
        if "," not in argument
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        try:
            return compose("train", typed, return_hydra_config=True)
        except HydraException:
            return compose("train", return_hydra_config=True)
