"""Everything that README and the guides show is run."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cnn_lab.settings.config import PROJECT, check_config
from cnn_lab.training import train
from conftest import TrainedRun, compose_config, read_readme, read_result, run_script, train_command

PAGES = {"README.md": read_readme()}
PAGES |= {path.name: path.read_text() for path in sorted((PROJECT / "docs").glob("*.md"))}
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
ARGUMENTS = {
    name: [
        list(arguments)
        for arguments in dict.fromkeys(
            tuple(line.partition(f"scripts/{name}.py")[2].split())
            for line in COMMANDS
            if line.startswith(f"python scripts/{name}.py")
        )
    ]
    for name in ("train", "evaluate", "report", "explain", "predict", "export")
}
TRAIN = ARGUMENTS["train"]
RESUMED = [arguments for arguments in TRAIN if "resume=latest" in arguments]  # needs a run to continue
# Run by tests of their own.
ELSEWHERE = ("hydra/launcher=", "data=fashion_mnist", "data=folder", "data=arrays", "my_data.", "my_nets.")
SMALL = [
    "trainer.accelerator=cpu",
    "pictures.enabled=false",
    *(f"trainer.limit_{part}_batches=1" for part in ("train", "val", "test")),
]
RUNS = {"seed=0,1,2": 3, "seed=0,1": 2, "model.channels=[8,16],[16,32]": 2, "model.dropout=0,0.5": 2}
RUNS |= {"search=cnn": 3, "experiment=channel_widths": 4}
NO_RUN = ("--help", "--cfg")


def test_every_command_is_run_by_a_test() -> None:
    first, tests, *others = COMMANDS
    assert first.endswith(".venv/bin/python scripts/train.py")
    assert tests.endswith("/pytest")
    assert "grep -m 1 -- '/pytest$'" in (PROJECT / ".ci" / "run").read_text()
    assert tests in (PROJECT / "CONTRIBUTING.md").read_text().splitlines()
    run_here = re.compile(rf"python scripts/({'|'.join(ARGUMENTS)})\.py\b")
    rest = {line for line in others if not run_here.match(line)}
    # The last three are run by test_draw.py, test_compare.py and test_wheel.py.
    assert rest == {
        "tensorboard --logdir outputs", "python scripts/draw.py", "python scripts/compare.py",
        "pip wheel --no-deps --wheel-dir dist .",
    }  # fmt: skip


def test_readme_is_two_screens_and_a_half() -> None:
    text = PAGES["README.md"]
    assert text.count("\n") <= 200
    assert len(text.split()) <= 1_500


@pytest.mark.parametrize("page", PAGES)
def test_every_guide_opens_with_a_command_and_a_picture(page: str) -> None:
    folder = PROJECT if page == "README.md" else PROJECT / "docs"
    targets = re.findall(r"\]\(([^)#]+)\)", PAGES[page])
    missing = [name for name in targets if "://" not in name and not (folder / name).exists()]
    assert missing == []
    if page != "README.md":
        _, command, rest = PAGES[page].split("```", 2)
        assert command.startswith("bash\n")
        assert re.match(r"\s*(!\[|```mermaid\n)", rest), "a picture must follow the first command"
    named = re.findall(r"`((?:src|conf|tests|scripts|benchmarks|docs)/[\w./]+\w/?)`", PAGES[page])
    assert [name for name in named if not (PROJECT / name).exists()] == []


@pytest.mark.parametrize(
    "arguments",
    [item for item in TRAIN if item not in RESUMED and not any(word in " ".join(item) for word in ELSEWHERE)],
    ids=" ".join,
)
def test_every_training_command_runs(arguments: list[str], tmp_path: Path) -> None:
    is_run = not set(NO_RUN) & set(arguments)
    quick = [*SMALL, "trainer.max_epochs=1", f"output_dir={tmp_path}"] if is_run else []
    if "search=cnn" in arguments:
        quick.append("hydra.sweeper.n_trials=3")
    if "experiment=channel_widths" in arguments:
        quick.append("seed=0")
    typed = [item for item in arguments if not item.startswith("trainer.max_epochs=")]
    done = train_command(*typed, *quick, no_proxy="*")
    assert (done.returncode, done.stderr) == (0, "")
    if quick:
        results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
        assert [result["status"] for result in results] == ["completed"] * len(results)
        assert len(results) == math.prod(RUNS.get(argument, 1) for argument in arguments)


def test_the_entries_for_a_metric_a_loss_and_a_callback_work(tmp_path: Path) -> None:
    entries = OmegaConf.create(re.search(r"```yaml\n(metrics:.*?)```", TEXT, re.DOTALL)[1])
    settings = check_config(
        OmegaConf.merge(
            compose_config(*SMALL, "trainer.max_epochs=1", "trainer.log_every_n_steps=1"), entries
        )
    )
    train(settings, tmp_path, quiet=True)
    result = read_result(tmp_path)
    assert result["best"]["val/f1"] >= 0
    assert result["test/f1"] >= 0
    assert settings["loss"]["label_smoothing"] == 0.1


def test_the_report_command_runs(trained: TrainedRun, tmp_path: Path) -> None:
    assert ARGUMENTS["report"] == [[]]
    done = run_script("report.py", str(trained.output_dir), "--output", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ARGUMENTS["evaluate"], ids=" ".join)
def test_every_evaluation_command_runs(arguments: list[str], trained: TrainedRun) -> None:
    done = run_script("evaluate.py", str(trained.path), *arguments)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


def test_the_commands_that_continue_a_run_work(tmp_path: Path) -> None:
    first, longer = sorted(RESUMED, key=len)
    outputs = f"output_dir={tmp_path}"
    assert train_command(*SMALL, "trainer.max_epochs=1", outputs).returncode == 0
    again = train_command(*first, outputs)
    assert (again.returncode, "has nothing left to train after 1 epoch;" in again.stderr) == (2, True)
    done = train_command(*[item.replace("=20", "=2") for item in longer], outputs)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ARGUMENTS["explain"] + ARGUMENTS["export"], ids=" ".join)
def test_every_command_that_looks_inside_runs(
    arguments: list[str], trained: TrainedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    name = "export" if "--format" in arguments else "explain"
    done = run_script(f"{name}.py", str(run), *arguments)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ARGUMENTS["predict"], ids=" ".join)
def test_every_command_that_predicts_runs(arguments: list[str], trained: TrainedRun, tmp_path: Path) -> None:
    paths = [str(PROJECT / item) if item.startswith("docs/") else item for item in arguments]
    done = run_script("predict.py", *paths, "--run", str(trained.path), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "photo.jpg" in done.stdout
    assert (tmp_path / "prediction.png").exists() == ("--show" in arguments)


@pytest.mark.parametrize("path", sorted((PROJECT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts(path: Path) -> None:
    assert f"`python benchmarks/{path.name}" in TEXT
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if path.stem == "speed":
        for line in ("the article's loop, float32", "cnn-lab, float32", "cnn-lab, bf16"):
            assert line in " ".join(done.stdout.split())
            assert f"| {line} | " in TEXT


@pytest.fixture
def server(trained: TrainedRun) -> Iterator[str]:
    command = next(line for line in COMMANDS if line.startswith("tensorboard"))
    arguments = shlex.split(command.replace("outputs", str(trained.output_dir)))[1:]
    tensorboard = str(Path(sys.executable).with_name("tensorboard"))
    process = subprocess.Popen(
        [tensorboard, *arguments, "--port", "0", "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    address = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.]+:\d+/", line)))
    yield address
    process.terminate()
    process.communicate()


def test_tensorboard_serves_the_run_under_its_name(server: str, trained: TrainedRun) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(60):
        with opener.open(f"{server}data/runs") as answer:
            runs = json.load(answer)
        if runs:
            break
        time.sleep(0.5)
    assert runs == [f"runs/{trained.path.name}"]


def test_the_error_it_shows_is_the_one_that_is_given() -> None:
    command, message = re.search(r"```\n\$ python scripts/train.py (.*)\n(Error: .*)\n```", TEXT).groups()
    assert train_command(*command.split()).stderr == f"{message}\n"


def test_every_path_that_it_or_a_config_names_is_there() -> None:
    path = re.compile(r"(?<![\w./-])(?:src|conf|scripts|tests|docs|benchmarks)/[\w./-]*\w")
    for text in [PROJECT / "README.md", *(PROJECT / "conf").rglob("*.yaml")]:
        named = path.findall(text.read_text())
        assert [name for name in named if not (PROJECT / name).exists()] == [], text


def test_its_tables_name_what_there_is() -> None:
    for group, options in re.findall(r"^\| `(\w+)` \| (`.*?`) \|", TEXT, re.MULTILINE):
        folder = PROJECT / "conf" / group
        if folder.is_dir():
            assert sorted(re.findall(r"`(\w+)`", options)) == sorted(
                path.stem for path in folder.glob("*.yaml")
            )
    rooms = [path for path in (PROJECT / "src" / "cnn_lab").iterdir() if not path.name.startswith("_")]
    names = {path.name for path in rooms if path.suffix == ".py"} | {
        f"{path.name}/" for path in rooms if path.is_dir()
    }
    assert {name for name in names if f"\n  {name} " not in TEXT} == set()


def test_its_numbers_for_the_article_are_those_of_the_experiment() -> None:
    header = (PROJECT / "conf" / "experiment" / "article.yaml").read_text()
    score = re.search(r"reaches (\S+) % \+- (\S+) %", header).groups()
    assert f"{score[0]} ± {score[1]}" in TEXT


def test_its_numbers_for_the_ready_made_sweeps_are_those_of_the_experiments() -> None:
    rows = re.findall(
        r"^\| `python scripts/train.py experiment=(\w+)` \| (.*) \| (\d+) \|$", TEXT, re.MULTILINE
    )
    headers = {path.stem: path.read_text() for path in (PROJECT / "conf" / "experiment").glob("*.yaml")}
    measured = {name for name, header in headers.items() if re.search(r"% test accuracy: \d", header)}
    assert {name for name, _, _ in rows} == measured
    for name, scores, minutes in rows:
        listed = re.search(r"% test accuracy: (.*)\.$", headers[name], re.MULTILINE)[1].split(", ")
        assert re.findall(r"([\d.]+) ±", scores) == listed
        assert f"Takes {minutes} minutes" in headers[name]


def test_the_packages_it_needs_are_declared() -> None:
    imported = set()
    for path in [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "scripts").glob("*.py")]:
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    declared = (PROJECT / "pyproject.toml").read_text()
    distributions = {"hydra": "hydra-core", "yaml": "pyyaml", "PIL": "pillow"}
    third_party = imported - set(sys.stdlib_module_names) - {"cnn_lab", "hydra_plugins"}
    assert {name for name in third_party if f'"{distributions.get(name, name)}' not in declared} == set()
