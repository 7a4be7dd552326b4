from cnn_lab.settings.config import check_config, flatten
from cnn_lab.settings.meaning import MEANINGS, fingerprint, meaning_of
from conftest import compose_config

DEFAULT = check_config(compose_config())


def test_every_key_with_a_meaning_is_in_the_config() -> None:
    keys = flatten(check_config(compose_config("data=fashion_mnist", "logger=csv")))
    for name in (name for names in MEANINGS.values() for name in names):
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_place_hardware_and_what_is_shown_make_no_other_run() -> None:
    moved = compose_config(
        "label=x", "output_dir=elsewhere", "trainer.accelerator=cpu", "trainer.devices=2", "data.num_workers=1",
        "pictures.enabled=false", "checkpoint_minutes=1", "trainer.log_every_n_steps=1", "sweep.fail_fast=true",
    )  # fmt: skip
    assert fingerprint(check_config(moved)) == fingerprint(DEFAULT)
    elsewhere = [
        check_config(compose_config("data=fashion_mnist", f"data.root={root}")) for root in (".", "..")
    ]
    assert fingerprint(elsewhere[0]) == fingerprint(elsewhere[1])


def test_identity_length_and_seed_make_another_run() -> None:
    others = {
        "model.dropout=0.4": "identity", "data.train_size=100": "identity", "data.split_seed=1": "identity",
        "trainer.max_epochs=3": "length", "seed=1": "repetition", "data.fold=1": "repetition",
        "data.classes=[3,8]": "identity", "data.shuffle_pixels=true": "identity", "data.folds=3": "identity",
    }  # fmt: skip
    names = {typed: fingerprint(check_config(compose_config(typed))) for typed in others}
    assert len({*names.values(), fingerprint(DEFAULT)}) == len(others) + 1
    assert [meaning_of(typed.partition("=")[0]) for typed in others] == [*others.values()]
