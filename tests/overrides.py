"""Overrides of every kind, and what scripts/train.py makes of them: a run, or one message."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hypothesis import strategies as st
from omegaconf import OmegaConf

from brought import KINDS, bring_code, find_belongings
from cnn_lab.settings.config import GROUPS, PROJECT, flatten
from conftest import ENVIRONMENT, SMALL_DATA, WAITING
from forked import run_forked

SCRIPTS = PROJECT / "scripts"
FONTS = str(Path(tempfile.gettempdir(), "cnn-lab-fonts"))  # else each home gets matplotlib's list of them
SECONDS = 60  # that a try may take
# A run of a moment, whatever is typed after it; see `lists_of_overrides` for what would take the bounds away.
SMALL = [
    *SMALL_DATA, "trainer.accelerator=cpu", "model.channels=[2,4]", "model.hidden=[8]", "pictures.embedding=5",
    "pictures.mistakes=2", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1", "trainer.max_epochs=1", "trainer.max_time=00:00:00:02",
]  # fmt: skip

WORDS = [
    "null", "true", "false", "yes", "nan", "inf", "-inf", "0", "1", "-1", "2", "3", "10", "0.5", "-0.0", "1e3", "1e-3",
    "1e308", "1e-320", "1e400", "1000000", "1000000000", str(2**63), str(-(2**63)), str(10**40), ".5", "1_0", "0x10",
    "", "''", '""', "'", '"', "a b", "'a b'", "\\", "\\n", "é", "数字", "👾", "a\tb", "a\nb", "\x1b[31mred", "\x07", "x" * 5000,
    "a=b", "a,b", "1,2", "#", ":", "@", "%s", "{}", "$HOME", "none", "auto", "max", "same", "val/loss", "latest", "16-mixed",
    "../../x", "/etc/passwd", "/dev/null", "/proc/x", "~", "~/x", ".", "..", "/", "a/b/c", "file://x", "-", "--",
    "???", "\u202e", "NaN", "None", "[", "]", "{", "}", "(", ")", "[1", "{a:1", "1]",
]  # fmt: skip
CALLS = [
    "${seed}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${nope}", "${project:x}", "${project:../x}", "${model.dropout}", "${model}",
    "${label}", "${resume}", "${output_dir}", "${hydra:job.name}", "${hydra:runtime.cwd}", "${oc.decode:1}", "${now:%Y}",
    "${.lr}", "${..seed}", "${", "${}", "${a", "'${seed}'", "$${seed}", "${oc.select:nope,3}", "${oc.create:{a:1}}",
    "range(3)", "choice(1,2)", "choice(a)", "glob(*)", "sort(3,1)", "shuffle(1,2)", "interval(0,1)", "range(0)",
    "tag(log,interval(1e-4,1e-2))", "int(3.7)", "float(2)", "str(1)", "bool(1)", "nope(1)", "choice()", "range(1,2,0)",
    "extend_list(1)", "int(x)", "json_str({a:1})",
]  # fmt: skip
GOOD = [
    "seed=7", "label=x", "loss.label_smoothing=0.1", "metrics.f1._target_=torchmetrics.classification.MulticlassF1Score", "logger=csv", "best=val/loss", "early_stopping.patience=1", "early_stopping.monitor=train/accuracy",
    "checkpoint_minutes=1e-9", "pictures.enabled=false", "pictures.mistakes=0", "pictures.embedding=0", "data.batch_size=7",
    "data.eval_batch_size=1000", "data.train_size=100", "data.val_size=0", "data.test_each_epoch=true", "data.mean=[0]", "data.std=1",
    "data.name=digits", "model.channels=[3]", "model.hidden=4",
    "model.kernel_sizes=5", "model.strides=2", "model.paddings=2", "model.pool=avg", "model.pool=none", "model.activation=gelu",
    "model.norm=batch", "model.hidden=[]", "model.hidden=[4,4]", "model.dropout=0", "model.num_outputs=10", "optimizer=sgd", "optimizer=adamw",
    "optimizer=rmsprop", "optimizer.lr=0.1", "optimizer.weight_decay=0.1", "scheduler=cosine", "scheduler=one_cycle",
    "scheduler=step", "scheduler=plateau", "trainer.precision=32-true", "trainer.limit_train_batches=3", "trainer.max_epochs=2",
    "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "trainer.log_every_n_steps=1", "trainer.limit_val_batches=0",
    "trainer.num_sanity_val_steps=1", "trainer.check_val_every_n_epoch=2", "trainer.deterministic=true",
]  # fmt: skip
HYDRA_KEYS = [
    "hydra.run.dir", "hydra.job.name", "hydra.output_subdir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.verbose",
    "hydra.mode", "hydra.searchpath", "hydra.job.chdir", "hydra.job.config_name", "hydra.runtime.output_dir", "hydra.run",
    "hydra.job.env_set", "hydra.callbacks", "hydra.job_logging", "hydra.help.header", "hydra.sweeper", "hydra", "hydra.nope",
    "hydra.job.num", "hydra.overrides.task", "hydra.sweeper.params", "hydra.job.override_dirname", "hydra/job_logging",
    "hydra/hydra_logging", "hydra/output", "hydra/sweeper", "hydra.hydra_logging.version", "hydra.env", "hydra.job_logging.root",
]  # fmt: skip
# Left out, since what they rightly do is no small run of one process: other processes, machines, downloads.
LEFT_OUT = ("hydra/launcher", "hydra.launcher")
DOWNLOADED = {
    "data": [
        "arrays",
        "cifar10",
        "emnist",
        "emnist_digits",
        "emnist_letters",
        "fashion_mnist",
        "folder",
        "kmnist",
        "own",
    ]
}
TARGETS = [
    "torch.optim.Adam", "torch.optim.LBFGS", "torch.optim.SparseAdam", "torch.optim.Adadelta", "torch.nn.Linear", "torch.nn.Identity",
    "cnn_lab.model.CNN", "cnn_lab.scheduler.step", "os.system", "builtins.print", "torch", "torch.optim", "cnn_lab", "json.dumps",
    "lightning.pytorch.Trainer", "cnn_lab.data.ImageDataModule", "cnn_lab.sources.idx.read_mnist", "cnn_lab.sources.idx.read_idx", "a..b",
    ".a", "a.", "..", "pathlib.Path", "datetime.timedelta",
]  # fmt: skip


def _compose() -> dict[str, Any]:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", ["scheduler=plateau"])
    return OmegaConf.to_container(config)  # type: ignore[return-value]


def _list_options() -> dict[str, list[str]]:
    conf = PROJECT / "conf"
    groups = {str(path.parent.relative_to(conf)) for path in conf.rglob("*/*.yaml")}
    return {
        group: sorted({path.stem for path in (conf / group).glob("*.yaml")} - {*DOWNLOADED.get(group, ())})
        for group in sorted(groups)
        if not group.startswith(LEFT_OUT)
    }


CONFIG = _compose()
LEAVES = {key: value for key, value in flatten(CONFIG).items() if not key.endswith("_target_")}
OPTIONS = _list_options()
# What each group's target also takes, so that `+` finds a place.
MORE_KEYS = [
    "optimizer.maximize", "optimizer.differentiable", "optimizer.capturable", "optimizer.foreach", "trainer.plugins",
    "trainer.reload_dataloaders_every_n_epochs", "trainer.inference_mode", "trainer.fast_dev_run", "trainer.barebones",
    "trainer.limit_predict_batches", "trainer.logger", "trainer.callbacks", "trainer.default_root_dir", "trainer.model_registry",
    "model.input_shape", "data.seed", "data.source", "data.source.root", "data.source.dataset", "data.source._partial_", "model._convert_", "model._recursive_", "optimizer._partial_", "model._args_", "data._x",
    "trainer._target_", "scheduler.eta_min", "optimizer.params",
]  # fmt: skip


def _texts() -> st.SearchStrategy[str]:
    """Values as they are typed."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
    simple = st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(WORDS),
        st.integers().map(str),
        st.floats(allow_subnormal=False).map(str),  # a process that has trained counts these as zero
        st.text(characters, max_size=12),
    )
    nested = st.recursive(
        simple,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
            st.lists(st.tuples(st.sampled_from("ab1"), inner), max_size=2).map(
                lambda items: f"{{{','.join(f'{key}:{value}' for key, value in items)}}}"
            ),
        ),
        max_leaves=5,
    )
    return st.one_of(simple, nested, st.sampled_from(CALLS))


def _usual_values(key: str) -> st.SearchStrategy[str]:
    """Values of about the right type, so that many tries get far."""
    near = {
        bool: ["true", "false"],
        int: ["1", "2", "3", "5", "100", "4095"],
        float: ["0.1", "0.25", "0.9", "1e-5", "1", "0"],
        list: ["[1]", "[2,3]", "[8,8,8]", "[0.5,0.9]", "[0.9,0.5]", "[]", "[1,1,1,1,1,1]", "[0]", "[3,[3]]", "[null,max]"],
        str: ["avg", "none", "batch", "gelu", "val/accuracy", "train/loss", "cpu", "ddp", "bf16-mixed", "64-true", "16-true"],
        type(None): ["1", "2", "0.5", "value", "norm", "simple", "advanced", "pytorch", "true", "warn", "cnn"],
    }  # fmt: skip
    return st.sampled_from(near[type(LEAVES[key])])


def _usual_settings() -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(LEAVES)).flatmap(
        lambda key: _usual_values(key).map(lambda value: f"{key}={value}")
    )


def _good_settings() -> st.SearchStrategy[str]:
    """Settings that hardly ever are refused."""
    as_it_is = [f"{key}={_as_typed(value)}" for key, value in LEAVES.items() if key != "output_dir"]
    return st.one_of(st.sampled_from(as_it_is), st.sampled_from(GOOD))


def _as_typed(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "'")


def _wild_settings() -> st.SearchStrategy[str]:
    prefixes = st.sampled_from(["", "", "", "", "+", "++"])
    return st.builds(
        lambda prefix, key, value: f"{prefix}{key}={value}",
        prefixes,
        st.sampled_from(sorted(LEAVES)),
        _texts(),
    )


def _choices() -> st.SearchStrategy[str]:
    def choose(group: str) -> st.SearchStrategy[str]:
        odd = st.sampled_from(
            ["null", "", "nope", "[]", "../conf/train", "x.yaml", "adam,sgd", "[cnn,lenet]", "/etc/passwd"]
        )
        return st.builds(
            lambda prefix, option: f"{prefix}{group}={option}",
            st.sampled_from(["", "", "", "", "+", "++", "~"]),
            st.one_of(st.sampled_from(OPTIONS[group]), st.sampled_from(OPTIONS[group]), odd, _texts()),
        )

    return st.sampled_from(sorted(OPTIONS)).flatmap(choose)


def _odd_ones() -> st.SearchStrategy[str]:
    """Unknown keys near known ones, deletions, whole nodes, targets, Hydra's own keys, and what is no override."""
    known = st.sampled_from([*LEAVES, *GROUPS, "pictures", "early_stopping", "sweep"])
    prefixes = st.sampled_from(["", "", "+", "++", "~"])
    near = st.one_of(
        known.map(lambda key: key[:-1]), known.map(lambda key: f"{key}s"), known.map(lambda key: f"{key}.x"),
        known.map(lambda key: key.rpartition(".")[2]), known.map(lambda key: f"{key}.0"), known.map(str.upper),
        known.map(lambda key: f"{key}@x"), known, st.sampled_from(MORE_KEYS), st.sampled_from(HYDRA_KEYS),
    )  # fmt: skip
    pair = st.builds(lambda prefix, key, value: f"{prefix}{key}={value}", prefixes, near, _texts())
    target = st.builds(
        lambda prefix, group, name: f"{prefix}{group}._target_={name}", prefixes, st.sampled_from([*GROUPS, "data.source"]),
        st.one_of(st.sampled_from(TARGETS), _texts()),
    )  # fmt: skip
    deletion = st.one_of(known, near).map(lambda key: f"~{key}")
    hydra = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(HYDRA_KEYS), _texts())
    broken = st.one_of(
        known, _texts().map(lambda text: f"={text}"), _texts().filter(lambda text: not text.startswith("-")),
        known.map(lambda key: f" {key} = 1 "), known.map(lambda key: f"{key}=="), known.map(lambda key: f"{key}:=1"),
    )  # fmt: skip
    return st.one_of(pair, target, deletion, hydra, broken)


def _is_bounded(typed: list[str]) -> bool:
    """Whether what is typed leaves the bounds of `SMALL`, and sends files only to where they are looked for.

    An end may be taken away, but not both; and what names another place for results or data, or several
    processes, does what it says.
    """
    keys = [item.partition("=")[0].strip(" +~") for item in typed]
    processes = any(re.match(r"[+ ]*trainer\.devices=\D*[2-9]", item) for item in typed)
    ends = sum(
        any(key.startswith(f"trainer.{name}") for key in keys)
        for name in ("max_time", "max_epochs", "max_steps")
    )
    whole = any(key in ("trainer", "hydra") for key in keys)
    elsewhere = any("output_dir" in item and ("${" in item or "=/" in item) for item in typed)
    launched = any(
        key.startswith(LEFT_OUT) or "search=cnn" in item for key, item in zip(keys, typed, strict=True)
    )
    flags = any(item.startswith("-") for item in typed)
    return (
        ends < 2 and not (ends and whole) and not elsewhere and not launched and not processes and not flags
    )


@st.composite
def lists_of_overrides(draw: st.DrawFn) -> list[str]:
    """One to four overrides: a first of any kind, with some that are probably good, so that many get far."""
    kinds = [_usual_settings(), _wild_settings(), _wild_settings(), _choices(), _odd_ones()]
    first = draw(st.sampled_from(kinds).flatmap(lambda kind: kind))
    others = draw(st.lists(_good_settings(), max_size=3))
    return draw(st.permutations([first, *others]).filter(_is_bounded))


NETS = ["nets_one.Net", "nets_one.Normed", "nets_one.Averaging", "nets_two.Net"]
PRECISIONS = ["32-true", "64-true", "bf16-mixed", "bf16-true", "16-true", "16-mixed"]
SWEPT = [
    ["seed=0,1"],
    ["model._target_=nets_one.Net,nets_two.Net"],
    ["optimizer=sgd,nope"],
    ["trainer.precision=32-true,64-true", "trainer.max_epochs=1,2"],
    ["data.fold=range(3)", "data.folds=3"],
    ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(0.001,0.1)"],
    ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "model._target_=nets_one.Net,nets_two.Net"],
]
STORES = ["file:${output_dir}/mlruns", "sqlite:///${output_dir}/mlflow.db", "${output_dir}/mlruns"]
# What a shell may still hold of a job, a launcher, or another program.
LEFT_OVER = [
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "lab", "SLURM_PROCID": "0"},
    {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash"},
    {"RANK": "0"}, {"RANK": "1"}, {"LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"LOCAL_RANK": "x"}, {"NODE_RANK": "1"}, {"GROUP_RANK": "1"},
    {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"MASTER_ADDR": "nowhere", "MASTER_PORT": "x"},
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    {"PL_TRAINER_FAST_DEV_RUN": "True"}, {"PL_TRAINER_MAX_EPOCHS": "3"}, {"PL_TRAINER_NUM_NODES": "2"}, {"PL_TRAINER_DEVICES": "2"},
    {"PL_TRAINER_LOGGER": "False"}, {"PL_TRAINER_NOPE": "("}, {"PL_GLOBAL_SEED": "5"}, {"PL_SEED_WORKERS": "x"},
    {"TORCHELASTIC_RUN_ID": "1"}, {"KUBERNETES_PORT": "tcp://127.0.0.1:443"}, {"LSB_JOBID": "3"}, {"XRT_TPU_CONFIG": "x"},
    {"CUDA_VISIBLE_DEVICES": ""}, {"CNN_LAB_RUN_DIR": "/nowhere"}, {"OMP_NUM_THREADS": "x"}, {"COLUMNS": "0"}, {"TERM": "nope"},
    {"HYDRA_FULL_ERROR": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, {"MLFLOW_RUN_ID": "x"},
]  # fmt: skip


def leftovers() -> st.SearchStrategy[dict[str, str]]:
    """Variables of the environment: mostly none."""
    return st.sampled_from([{}] * len(LEFT_OVER) + LEFT_OVER)


@st.composite
def belongings(draw: st.DrawFn) -> list[str]:
    """What a user brings along, and what is about a whole run or several, with a few other settings."""
    place = find_belongings()
    pictures = st.sampled_from([*KINDS[1:], "mixed", "a/pictures"]).map(
        lambda name: ["data=folder", f"data.root={place}/{name}"]
    )
    made = [["data.noise=90", "data.count=45"], ["data.count=1"], ["data.nois=3"], []]
    named = [
        ["data.name=mine"],
        ["data.std=0.5"],
        ["data.classes=[2,0]"],
        ["data.batch_size=30"],
        ["data.source.batch_size=30"],
        [],
    ]
    data = st.one_of(
        pictures,
        pictures.map(lambda typed: [*typed, "data.size=6", "data.channels=1"]),
        st.just(["data=arrays", f"data.root={place}/a/own.npz"]),
        st.sampled_from(made).map(lambda more: ["data=own", "data.source._target_=images_made.read", *more]),
        st.sampled_from(named).map(
            lambda more: ["data=own", "data.source._target_=images_made.read_named", *more]
        ),
        st.sampled_from([["data.fold=1", "data.folds=3"], ["data.fold=4"], ["data.val_size=0"]]),
    )
    net = st.sampled_from(NETS).map(lambda name: [f"model._target_={name}"])
    logger = st.one_of(
        st.just(["logger=csv"]),
        st.sampled_from(STORES).map(lambda store: ["logger=mlflow", f"logger.tracking_uri={store}"]),
    )
    precision = st.sampled_from(PRECISIONS).map(lambda name: [f"trainer.precision={name}"])
    several = st.one_of(
        st.sampled_from(SWEPT).map(lambda typed: ["-m", *typed]),
        st.just(["trainer.devices=2", "trainer.limit_test_batches=1.0"]),
    )
    kinds = draw(
        st.lists(
            st.sampled_from([data, data, net, logger, precision, several]),
            min_size=1,
            max_size=3,
            unique_by=id,
        )
    )
    typed = [item for kind in kinds for item in draw(kind)]
    keys = {item.partition("=")[0] for item in typed}
    others = draw(
        st.lists(_good_settings().filter(lambda item: item.partition("=")[0] not in keys), max_size=2).filter(
            _is_bounded
        )
    )
    return [*typed, *others]


def _drop_what_is_replaced(typed: list[str]) -> list[str]:
    """What of `SMALL` goes with what is typed, of which a sweep takes no key twice."""
    brings_data = any(item.startswith(("data=folder", "data=arrays", "data=own")) for item in typed)
    brings_net = any(item.startswith("model._target_=nets") for item in typed)
    dropped = ("data.",) * brings_data + ("model.",) * brings_net
    keys = {item.partition("=")[0] for item in typed if "-m" in typed}
    kept = [item for item in SMALL if not (dropped and item.startswith(dropped))]
    return [item for item in kept if item.partition("=")[0] not in keys]


class Ending:
    """How a try ended: its exit code (None: it did not), what it printed, and the files that it left.

    Where there was a run, its folder is moved, and the first one is evaluated there.
    """

    def __init__(self, code: int | None, out: str, err: str, folder: Path) -> None:
        self.code = code
        self.out = out
        self.err = WAITING.sub("", err)
        self.left = [path for path in folder.rglob("*") if _is_left(path, folder)]
        self.runs = {
            path.parent: json.loads(path.read_text()) for path in self.left if path.name == "result.json"
        }
        self.results = [*self.runs.values()]
        self.measured: subprocess.CompletedProcess[str] | None = None


def _is_left(path: Path, folder: Path) -> bool:
    """Whether a path is a file, or an empty folder, that a command has made there for the user to see."""
    if path.is_dir() and any(path.iterdir()):
        return False
    ours = path in (folder / "home", _place(folder)) or path.suffix == ".py" or "__pycache__" in path.parts
    return not ours and path.name != "runs" and not {".cache", ".config"} & {*path.parts}  # runs is empty


def _place(folder: Path) -> Path:
    """Where a try runs: deep enough that `../../x` still is inside of `folder`."""
    return folder / "a" / "b" / "c"


def run_with(typed: list[str], variables: dict[str, str] | None = None) -> Ending:
    """Run scripts/train.py with `SMALL` and what is typed, in a folder and a home of its own."""
    with tempfile.TemporaryDirectory(prefix="cnn-lab-overrides-") as name:
        folder = Path(name)
        _place(folder).mkdir(parents=True)
        bring_code(_place(folder))
        (folder / "home").mkdir()
        arguments = [*_drop_what_is_replaced(typed), f"output_dir={folder / 'outputs'}", *typed]
        environment = {**os.environ, **ENVIRONMENT, "HOME": str(folder / "home"), "MPLCONFIGDIR": FONTS}
        environment = {**environment, "MLFLOW_ALLOW_FILE_STORE": "true", **(variables or {})}
        try:
            done = run_forked(SCRIPTS / "train.py", arguments, _place(folder), environment, SECONDS)
        except subprocess.TimeoutExpired:
            return Ending(None, "", "", folder)
        ending = Ending(done.returncode, done.stdout, done.stderr, folder)
        kept = [run for run in ending.runs if (run / "checkpoints" / "last.ckpt").is_file()]
        completed = [run for run in kept if ending.runs[run]["status"] == "completed"]
        if completed:
            (folder / "outputs").rename(folder / "moved")
            run = folder / "moved" / completed[0].relative_to(folder / "outputs")
            asked = [str(run), "--json", "--trust"]
            ending.measured = run_forked(SCRIPTS / "evaluate.py", asked, _place(folder), environment, SECONDS)
            ending.result = ending.runs[completed[0]]
            ending.stray = (folder / "outputs").exists()
        return ending


# Failures of a run itself that settings may lead to, and no check can foresee.
FAILURES = "(the run has diverged: |the directory |.* is not as its settings state: )"


def find_problem(ending: Ending) -> str:
    """What is wrong with the end of a try; empty where it is a run, or one message and no file."""
    if ending.code is None:
        return f"it did not end within {SECONDS} seconds"
    if "Traceback" in ending.out + ending.err:
        return "a traceback"
    if any(result.get("traceback") for result in ending.results):
        return f"a record with a traceback: {ending.results}"
    stray = [path for path in ending.left if not {"runs", "sweeps", "mlruns", "mlflow.db"} & set(path.parts)]
    if stray:
        return f"files outside of the run: {stray[:3]}"
    if ending.code == 0:
        return _find_problem_of_run(ending)
    lines = ending.err.splitlines() or [""]
    if not lines[0].startswith("Error: ") or sum(line.startswith("Error: ") for line in lines) != 1:
        return "not one message"
    if ending.code == 2:
        return f"a message, and files: {ending.left[:3]}" if ending.left else ""
    failed = [result["error"] for result in ending.results if result["status"] == "failed"]
    expected = FAILURES if len(ending.results) < 2 else r"\d+ of \d+ runs failed"
    if ending.code == 1 and re.match(f"Error: {expected}", lines[0]) and _are_expected(failed):
        return ""
    return f"exit code {ending.code}"


def _are_expected(errors: list[str]) -> bool:
    """Whether runs failed of themselves, or were refused, which stands in the sweep's own table."""
    return all(re.match(FAILURES, error) or "\n" not in error for error in errors)


def _find_problem_of_run(ending: Ending) -> str:
    statuses = {result["status"] for result in ending.results}
    if statuses - {"completed", "pruned"} or not statuses:
        return f"exit code 0, with runs that are {statuses or 'none'}"
    if re.search("^(Error|.*Warning)", ending.err, re.M):
        return "a run that complains"
    return _find_difference(ending) if ending.measured else ""


def _find_difference(ending: Ending) -> str:
    """What is said, what is stored and what is measured again have to agree."""
    accuracy, measured = ending.result.get("test/accuracy"), ending.measured
    if accuracy is None:
        return ""
    said = re.search(r"^test accuracy +([\d.]+) ?%", ending.out, re.M)
    if said and said[1] != f"{100 * accuracy:.2f}":
        return f"says {said[1]} and stores {accuracy}"
    if measured.returncode or ending.stray:
        return f"is not evaluated after it was moved: {measured.stderr}"
    found = json.loads(measured.stdout)["accuracy"]
    return "" if found == accuracy else f"stores {accuracy}, and evaluate.py finds {found}"
