"""The settings of the images: a source that fits them, classes that there are, folds that can be cut.

Nothing here imports torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_lab.errors import ConfigError, check_names, printable, suggest
from cnn_lab.settings.signatures import Parameter, read_signature

IMAGES = "cnn_lab.data.ImageDataModule"
FACTS = ("input_shape", "class_names", "mean", "std")  # which may be null, and are then found
SHARED = ("split_seed",)  # settings of the data module that its source takes, too


def check_data(data: dict[str, Any], own: Path, is_typed: bool) -> None:
    """Check what the settings of the images say together, as far as that is known without reading any.

    A name that is null becomes that of the images' place, and `classes` become texts.

    Args:
        own: the project's folder of data, which need not be there.
        is_typed: whether the place of the images has to be there, and what is null can be found in them.

    Raises:
        ConfigError: for a source that is no function or does not fit its folder, for less than two classes,
            and for a class or a fold that there is not.
    """
    if data["_target_"] != IMAGES:
        return
    _check_source(data, own, is_typed)
    if data["name"] is None:
        place = Path(data["root"] or data["source"]["_target_"]).expanduser().absolute()
        data["name"] = printable(place.stem if place.is_file() else place.name) or "images"
    for names in ("class_names", "classes"):
        if data.get(names) is not None:
            data[names] = [str(name) for name in data[names]]
    for fact in FACTS if not is_typed else ():
        if data[fact] is None:
            raise ConfigError(
                f"data.{fact} is null: stored settings must contain what was found in the images"
            )
    _check_classes(data)
    val_size = data.get("val_size", 0)
    if isinstance(val_size, float) and val_size >= 1:
        raise ConfigError(
            f"data.val_size={val_size:g} must be a number of images, or a share of them below 1"
        )
    fold, folds = data.get("fold"), data.get("folds", 5)
    if fold is not None and fold >= folds:
        raise ConfigError(
            f"data.fold={fold} is out of range: with data.folds={folds} there are 0 to {folds - 1}"
        )


def complete_data(data: dict[str, Any]) -> None:
    """Find what is null of the images' shape, classes, mean and std in the images.

    Raises:
        ConfigError: for a class that there is not.
        DataError: for images that are not what is stated.
    """
    if data["_target_"] != IMAGES or all(data[fact] is not None for fact in FACTS):
        return
    from cnn_lab.datasets import find_facts

    data |= find_facts(data, {*(read_signature(IMAGES) or ())})
    _check_classes(data)


def _check_source(data: Mapping[str, Any], own: Path, is_typed: bool) -> None:
    """The source of the images is a function, and a folder is given where it reads one."""
    source, root = data.get("source"), data.get("root")
    if not isinstance(source, dict) or "_target_" not in source or source.get("_partial_") is not True:
        raise ConfigError(
            "data.source is not a function: it needs _target_ and _partial_: true, as in conf/data/"
        )
    parameters = read_signature(source["_target_"])
    if root is not None and parameters is not None and "root" not in parameters:
        raise ConfigError(f"data.root={root} is not used: {source['_target_']} reads no folder; leave it out")
    if root is None and parameters and "root" in parameters and parameters["root"].required:
        raise ConfigError(
            f"data.root is missing: {source['_target_']} needs the folder or file of the images"
        )
    if is_typed:
        _check_arguments(data, parameters or {})
    if is_typed and root and root != str(own) and not Path(root).expanduser().exists():
        raise ConfigError(f"data.root={root} does not exist: give the folder or file of the images")


def _check_arguments(data: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
    """The source's arguments are its own: a setting of the data module of the same name does not reach it."""
    module, source = read_signature(IMAGES) or {}, data["source"]
    for name in (name for name in parameters if name not in {*source, *SHARED, "root"}):
        target = f"{source['_target_']} has an argument of this name: set that as data.source.{name}=..."
        if name in module and data.get(name) is not None:
            raise ConfigError(f"data.{name} is a setting of the images, and {target}, or rename it")
        if parameters[name].required and (name in module or name not in data):
            raise ConfigError(f"data.source.{name} is missing: {source['_target_']} needs it")


def _check_classes(data: Mapping[str, Any]) -> None:
    names = data["class_names"]
    for key in ("class_names", "classes"):
        check_names(f"data.{key}", data.get(key) or ())
    chosen = data.get("classes")
    if chosen is None:
        return
    key = f"data.classes=[{','.join(chosen)}]"
    for name in chosen if names else ():
        if name not in names:
            raise ConfigError(f"{key}: {data['name']} has no class '{name}'{suggest(name, names)}")
    if len(chosen) < 2:
        raise ConfigError(f"{key} must name at least two classes")
