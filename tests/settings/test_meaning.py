import pytest
from omegaconf import OmegaConf

from cnn_lab.settings.config import check_config, flatten
from cnn_lab.settings.meaning import MEANINGS, fingerprint, meaning_of
from cnn_lab.settings.typed import arrange
from conftest import compose_config

DEFAULT = check_config(compose_config())


def test_every_key_with_a_meaning_is_in_the_config() -> None:
    keys = flatten(check_config(compose_config("data=fashion_mnist", "logger=csv")))
    for name in (name for names in MEANINGS.values() for name in names):
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_place_hardware_and_what_is_shown_make_no_other_run() -> None:
    moved = compose_config(
        "label=x", "output_dir=elsewhere", "trainer.accelerator=cpu", "trainer.devices=[1]", "data.num_workers=1",
        "pictures.enabled=false", "checkpoint_minutes=1", "trainer.log_every_n_steps=1", "sweep.fail_fast=true",
    )  # fmt: skip
    assert fingerprint(check_config(moved)) == fingerprint(DEFAULT)


@pytest.mark.parametrize(
    "typed",
    [
        "model=cnn", "~model.pool", "model.dropout=0.50", "model.kernel_sizes=[3,3]", "model.strides=[1,1]",
        "model.paddings=[same,same]", "model.pool=[max,max]", "model.norm=null", "model.hidden=128", "optimizer.lr=1e-3",
        "optimizer.weight_decay=0", "+optimizer.maximize=false", "loss.label_smoothing=0", "early_stopping.min_delta=0",
        "data.mean=[0.1307]", "trainer.overfit_batches=0", "trainer.devices=[0]", "+model.num_outputs=null",
    ],
)  # fmt: skip
def test_the_same_typed_otherwise_is_the_same_setting_in_the_same_form(typed: str) -> None:
    config = check_config(compose_config(typed))
    assert fingerprint(config) == fingerprint(DEFAULT)
    settings = flatten(config)
    same = {key: (value, type(value)) for key, value in flatten(DEFAULT).items() if key in settings}
    forms = {key: (value, type(value)) for key, value in settings.items() if key in same}
    left = {
        "loss.label_smoothing",
        "trainer.devices",
    }  # no annotation tells, and which devices they are counts
    assert {key for key in same if same[key] != forms[key]} <= left


@pytest.mark.parametrize(
    ("typed", "other"),
    [
        ("model.hidden=[128]", "model.hidden=[128,128]"),
        ("trainer.limit_train_batches=1", "trainer.limit_train_batches=1.0"),
        ("data.val_size=1", "data.val_size=0.5"),
        ("model._target_=cnn_lab.model.CNN", "model._target_=cnn_lab.model.ResNet"),
        ("trainer.devices=[0]", "trainer.devices=[0,1]"),
    ],
)
def test_what_only_looks_alike_is_another_setting(typed: str, other: str) -> None:
    names = {fingerprint(OmegaConf.to_container(compose_config(*arrange([item])))) for item in (typed, other)}
    assert len(names) == 2


def test_what_a_sweep_varies_counts_whatever_it_is() -> None:
    here, there = (
        check_config(compose_config("data=fashion_mnist", f"data.root={root}")) for root in (".", "..")
    )
    assert fingerprint(here) == fingerprint(there)
    assert fingerprint(here, ["data.root"]) != fingerprint(there, ["data.root"])
    assert fingerprint(here, ["data"]) == fingerprint(there, ["data"])


def test_identity_length_and_seed_make_another_run() -> None:
    others = {
        "model.dropout=0.4": "identity", "data.train_size=100": "identity", "data.split_seed=1": "identity",
        "trainer.max_epochs=3": "length", "seed=1": "repetition", "data.fold=1": "repetition",
        "data.classes=[3,8]": "identity", "trainer.devices=2": "identity", "data.shuffle_pixels=true": "identity", "data.folds=3": "identity",
    }  # fmt: skip
    names = {typed: fingerprint(check_config(compose_config(typed))) for typed in others}
    assert len({*names.values(), fingerprint(DEFAULT)}) == len(others) + 1
    assert [meaning_of(typed.partition("=")[0]) for typed in others] == [*others.values()]
