"""What was typed on the command line: Hydra's errors about it, in the words of this project.

Nothing here imports torch.
"""

import re
import sys
import traceback
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cnn_lab.errors import ConfigError, suggest
from cnn_lab.settings.config import SCHEMAS, flatten
from cnn_lab.settings.environment import is_helper_process
from cnn_lab.settings.groups import describe_unknown, read_parameters, show

MULTIRUN = ("-m", "--multirun")
OPTIONS = (
    *MULTIRUN, "--help", "-h", "--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p",
    "--run", "-r", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
)  # fmt: skip
# Hydra's own settings that have a meaning here. Others would let it write where no run looks for its files.
HYDRA_SETTINGS = ("launcher", "sweeper", "mode", "verbose", "searchpath", "job.env_set", "help")


def check_typed(arguments: Sequence[str]) -> None:
    """Reject unknown options, and those of Hydra's settings that have no meaning here.

    Raises:
        ConfigError: naming the first.
    """
    if is_helper_process():  # Lightning adds some to the processes that it starts
        return
    for option in (item for item in arguments if re.match(r"--?[a-zA-Z]", item)):
        if option.partition("=")[0] not in OPTIONS:
            raise ConfigError(
                f"unknown option {option}. Settings are written as KEY=VALUE, without dashes, as in "
                "optimizer.lr=0.01 (--help lists what there is)"
            )
    _check_sweep(arguments)
    for override in arguments:
        if override.rstrip().endswith("="):
            raise ConfigError(
                f"{override.strip()} has no value: type one after the =. If it comes from a shell variable, "
                "that variable is not set"
            )
        found = re.match(r"\s*[+~]*\s*hydra(?:[./](?P<name>[^=@]*))?\s*(?:[=@]|$)", override)
        name = (found["name"] or "").strip() if found else ""
        if found and not re.match(rf"({'|'.join(HYDRA_SETTINGS)})([./]|$)", name):
            raise ConfigError(
                f"{override:.100} cannot be set. Hydra's settings that can be set: "
                + ", ".join(f"hydra.{item}" for item in HYDRA_SETTINGS)
            )


def arrange(arguments: Sequence[str]) -> list[str]:
    """The same with `-m` in front, where Hydra looks for it, and for a `_target_` no other's settings."""
    keys = [item.partition("=")[0] for item in arguments]
    arranged = list(arguments)
    for group in ("model", "loss"):
        if f"{group}._target_" in keys and group not in keys:
            arranged.insert(0, f"{group}=own")
    return sorted(arranged, key=lambda item: item not in MULTIRUN)


def _check_sweep(arguments: Sequence[str]) -> None:
    is_sweep = bool(set(MULTIRUN) & set(arguments))
    keys = [item.partition("=")[0] for item in arguments if "=" in item]
    if is_sweep and "resume" in keys:
        raise ConfigError("resume continues a single run; with -m, type sweep.resume= instead")
    is_for_one = not is_sweep and not {"experiment", "search", "hydra.mode"} & set(keys)
    for key in keys if is_for_one else ():
        if key.startswith(("sweep.re", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")):
            raise ConfigError(f"{key} is for a sweep: add -m and what you typed for that sweep")
    for key in keys if is_sweep else ():
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is given twice: put all its values into one, as in {key}=A,B")


def is_about_typing(error: Exception) -> bool:
    """Whether Hydra raised an error, or stumbled over what was typed."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("hydra", "omegaconf", "antlr4")


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's errors, in the words of this project."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = [str(name) for name in error.options or ()]
        if options:
            return f"{group}={option} is not an option{suggest(option, options)}"
    if isinstance(error, OverrideParseException):
        return _explain_unreadable(str(error.override))
    if several := _find_several(sys.argv[1:]):
        return several
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _explain_key(cause.full_key, cause.parent_node)
    if isinstance(cause, ValidationError) and cause.full_key:
        return _explain_type(cause.full_key, cause.value)
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return f"the command cannot be read ({error}): type GROUP=OPTION, KEY=VALUE or +KEY=VALUE"
    return "\n".join(line for line in str(error).splitlines() if not line.startswith("See https://"))


def quote(text: str) -> str:
    """A value as Hydra's grammar has it: in quotes, unless it is a plain word or path."""
    plain = re.fullmatch(r"[\w./+-]+", text, re.ASCII)
    return text if plain else QuotedString(text, Quote.single).with_quotes()


def parse(typed: Sequence[str], config_loader: ConfigLoader | None = None) -> list[Override]:
    """Hydra's parsed overrides; with a `config_loader`, `glob` finds its options."""
    return OverridesParser.create(config_loader).parse_overrides(list(typed))


def _explain_unreadable(override: str) -> str:
    """Say what is wrong with an override that Hydra's grammar does not have."""
    key, sign, value = override.partition("=")
    if not sign or not key:
        hint = "leave no spaces around = (--help lists what there is)"
    elif value.count("[") != value.count("]") or value.count("{") != value.count("}"):
        hint = (
            f"a bracket is not closed; put quotes around a list that contains spaces, as in '{key}=[8, 16]'"
        )
    elif value.startswith("~"):
        hint = f"write $HOME for ~, as in {key}=$HOME{value[1:]}"
    else:
        hint = f"put double quotes around the value and single quotes around everything: '{key}=\"{value}\"'"
    return f"'{override}' cannot be read as KEY=VALUE: {hint}"


def _find_several(arguments: Sequence[str]) -> str:
    """Say what to do about several values for one setting of a single run, if there are some."""
    if set(MULTIRUN) & set(arguments):
        return ""
    for argument in arguments:
        try:
            (override,) = parse([argument])
        except HydraException:
            continue
        if override.is_sweep_override():
            key, _, values = argument.partition("=")
            number = f", or a point for a number: {key}={values.replace(',', '.')}"
            return (
                f"{argument} gives several values: add -m to train one network for each, "
                f"or use brackets for one list: '{key}=[{values}]'"
            ) + (number if re.fullmatch(r"\d,\d+", values) else "")
    return ""


def _explain_key(key: str, node: DictConfig) -> str:
    """Say that a dotted key is none of `node`, the part of the config that it names, and which is nearest."""
    settings = flatten(OmegaConf.to_container(node._get_root()))  # type: ignore[arg-type]
    settings = [name for name in settings if not re.match(r"hydra\.(?!sweeper|launcher)", name)]
    group, _, _ = key.rpartition(".")
    if group:
        known = [str(name) for name in node if not str(name).startswith("_")]
        return describe_unknown(key, group, known, settings)
    typed = (item.lstrip("+~").partition("=")[0] for item in sys.argv[1:])
    whole = next((item for item in typed if item.startswith(f"{key}.")), key)
    return describe_unknown(whole, "", read_parameters("", SCHEMAS[""]) or (), settings)


def _explain_type(key: str, value: object) -> str:
    group, _, name = key.rpartition(".")
    known = read_parameters(group, SCHEMAS[group]) if group in SCHEMAS else None
    return f"{key}={show(value)} must be {known[name] if known and name in known else 'of another type'}"
