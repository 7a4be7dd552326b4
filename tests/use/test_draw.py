"""The page to draw on, in a real browser and without one."""

import base64
import contextlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cnn_lab.errors import ConfigError
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.settings.extras import install_hint
from cnn_lab.use.drawing import CANVAS, listen, look
from cnn_lab.use.prediction import learn_likeness
from conftest import TrainedRun, open_browser, run_script, start_script

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="Gradio is not installed: pip install -e '.[draw]'"
)

PEN = 24  # pixels, as on the page
Stroke = Sequence[tuple[float, float]]
# Shares of the canvas' width and height.
ROUND = [(0.5 + 0.24 * math.sin(t * math.pi / 8), 0.5 - 0.34 * math.cos(t * math.pi / 8)) for t in range(17)]
DIGITS: dict[str, list[Stroke]] = {
    "0": [ROUND],
    "1": [[(0.5, 0.15), (0.5, 0.5), (0.5, 0.85)]],
    "7": [[(0.25, 0.2), (0.5, 0.2), (0.75, 0.2)], [(0.75, 0.2), (0.6, 0.5), (0.45, 0.85)]],
}


@contextlib.contextmanager
def start_server(run: TrainedRun, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """scripts/draw.py in `folder` on a free port, and its address."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with start_script("draw.py", str(run.path), "--port", "0", cwd=folder, **pipes) as process:
        try:
            assert process.stdout
            said = (line for line in process.stdout if not line.endswith(" ...\n"))
            about, line = next(said, ""), next(said, "")
            found = re.fullmatch(r"Draw a digit at (http://127\.0\.0\.1:\d+) \(Ctrl\+C ends it\)\n", line)
            assert found, about + line
            assert about == (
                f"{run.path.name}: CNN, 103,018 parameters, after epoch {run.result['best']['epoch']}, test "
                f"accuracy {run.result['test/accuracy']:.2%} on MNIST\n"
            )
            yield process, found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def network(trained: TrainedRun) -> Trained:
    return load_trained(trained.path / "checkpoints" / "best.ckpt")


def wait_for(ask: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


def find(browser: Any, selector: str) -> Any:
    return next(iter(browser.find_elements("css selector", selector)), None)


def wait_for_guess(browser: Any, headline: str) -> None:
    wait_for(lambda: find(browser, ".guess strong").text == headline)


def draw(browser: Any, strokes: Sequence[Stroke]) -> None:
    """Move the mouse as a hand does."""
    from selenium.webdriver import ActionChains

    canvas = find(browser, ".board canvas")
    width, height = canvas.size["width"], canvas.size["height"]
    actions = ActionChains(browser, duration=10)
    for stroke in strokes:
        for index, (x, y) in enumerate(stroke):
            place = round((x - 0.5) * width), round((y - 0.5) * height)
            actions.move_to_element_with_offset(canvas, *place)
            if index == 0:
                actions.click_and_hold()
        actions.release()
    actions.perform()


def click(browser: Any, tool: str) -> None:
    find(browser, f"[data-tool={tool}]").click()


def read_images(browser: Any) -> list[str]:
    return [image.get_attribute("src") for image in browser.find_elements("css selector", ".images img")]


def requested(browser: Any) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message for message in messages if message["method"] == "Network.requestWillBeSent"]
    return {message["params"]["request"]["url"] for message in sent}


def paint(strokes: Sequence[Stroke]) -> str:
    """The same strokes as the page sends them."""
    picture = Image.new("RGB", (CANVAS, CANVAS), "white")
    for stroke in strokes:
        points = [(x * CANVAS, y * CANVAS) for x, y in stroke]
        ImageDraw.Draw(picture).line(points, fill="black", width=PEN, joint="curve")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@needs_gradio
def test_strokes_of_the_mouse_give_the_digit(trained: TrainedRun, tmp_path: Path) -> None:
    """One test, since starting a server and a browser takes most of its time."""
    with open_browser() as browser, start_server(trained, tmp_path) as (process, address):
        browser.get(address)
        wait_for(lambda: find(browser, ".board canvas"))
        assert browser.title == "Draw a digit - cnn-lab"
        assert trained.path.name in find(browser, ".head").text
        check_a_digit(browser)
        check_eraser(browser)
        check_another_user(browser, address)
        urls = requested(browser)
        assert len(urls) > 10
        assert {url for url in urls if not url.startswith((address, "data:"))} == set()
        assert browser.get_log("browser") == []
        check_only_this_machine_listens(int(address.rpartition(":")[2]))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stdout
        assert process.stdout.read() == ""
    assert list(tmp_path.iterdir()) == []


def check_a_digit(browser: Any) -> None:
    wait_for_guess(browser, "Draw a digit")
    blank = read_images(browser)
    assert len(blank) == 3  # what the network sees, and two blocks
    draw(browser, DIGITS["1"])
    wait_for_guess(browser, "1")
    bars = [element.text for element in browser.find_elements("css selector", ".bars li")]
    assert [bar.split()[0] for bar in bars] == [str(index) for index in range(10)]
    assert find(browser, ".bars .best b").text == "1"
    color = "return getComputedStyle(document.querySelector('.best i')).backgroundColor"
    assert browser.execute_script(color) == "rgb(213, 94, 0)"
    assert all(new != old for new, old in zip(read_images(browser), blank, strict=True))
    click(browser, "clear")
    wait_for_guess(browser, "Draw a digit")
    assert read_images(browser) == blank


def check_eraser(browser: Any) -> None:
    draw(browser, DIGITS["0"])
    wait_for_guess(browser, "0")
    click(browser, "eraser")
    draw(browser, DIGITS["0"])
    wait_for_guess(browser, "No digit yet")
    click(browser, "pen")
    draw(browser, DIGITS["7"])
    wait_for_guess(browser, "7")


def check_another_user(browser: Any, address: str) -> None:
    browser.switch_to.new_window("tab")
    browser.get(address)
    wait_for(lambda: find(browser, ".board canvas"))
    wait_for_guess(browser, "Draw a digit")
    draw(browser, [[(0.2, 0.5), (0.8, 0.5)]])
    wait_for_guess(browser, "No digit yet")


def check_only_this_machine_listens(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(OSError):  # noqa: PT011
        socket.create_connection(("127.0.0.2", port), timeout=5).close()


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"port {port} of 127.0.0.1 is in use by another program; type --port PORT with another one, or "
        "--port 0 for any that is free"
    )


def test_what_cannot_be_listened_on(trained: TrainedRun) -> None:
    with pytest.raises(ConfigError, match=r"^--host 192\.0\.2\.1 --port 7860 cannot be listened on: "):
        listen("192.0.2.1", 7860)
    done = run_script("draw.py", str(trained.path), "--port", "70000")
    assert (done.returncode, done.stdout) == (2, "")
    assert "argument --port: 70000 is not a port: give a number from 0 to 65535" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_a_checkpoint(trained: TrainedRun, tmp_path: Path) -> None:
    shutil.copy(trained.path / "result.json", tmp_path)
    done = run_script("draw.py", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {tmp_path} has no checkpoint (the run's status: completed)\n"


def test_without_gradio_it_says_what_to_install(trained: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "gradio.py").write_text("raise ImportError")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_script("draw.py", str(trained.path), "--port", "0", fresh=True, PYTHONPATH=paths)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: drawing needs Gradio, which is not installed; {install_hint('draw')}\n"


def test_help_names_the_options_and_does_not_wait() -> None:
    done = run_script("draw.py", "--help")
    assert done.returncode == 0
    for words in ("[run]", "--host", "127.0.0.1", "--port", "7860"):
        assert words in done.stdout


def test_an_empty_canvas_has_no_guess(network: Trained) -> None:
    guess, images = look(network, None, "")
    assert "Draw a digit" in guess
    assert "%</span>" not in guess
    assert images.count("<img") == 3
    assert "block 2: 16 maps of 7 x 7" in images


def test_a_guess_below_a_half_is_unsure(network: Trained) -> None:
    unsure = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    unsure[1].weight.data.zero_()
    unsure[1].bias.data = torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 0, 1.1])
    other = replace(network, classifier=replace_net(network, unsure))
    guess, images = look(other, None, paint(DIGITS["1"]))
    assert "Unsure" in guess
    assert "perhaps 9, perhaps 4" in guess
    assert "class=best" not in guess
    assert images.count("<img") == 1
    assert "It has no convolutional blocks, hence no feature maps." in images


def test_what_is_unlike_the_training_images_is_unsure(network: Trained) -> None:
    """However sure the network is: a capital E."""
    bars = [[(0.35, y), (0.65, y)] for y in (0.2, 0.5, 0.8)]
    letter = paint([*bars, [(0.35, 0.2), (0.35, 0.8)]])
    guess, images = look(network, learn_likeness(network), letter)
    assert "Unsure" in guess
    assert "it does not look like the images of MNIST" in guess
    assert 'class="best"' not in guess
    assert images.count("<img") == 3


def replace_net(network: Trained, net: torch.nn.Module) -> Any:
    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

    return Classifier().eval()


@pytest.mark.parametrize("size", [1, 10_000])
def test_only_what_the_canvas_sends_is_read(network: Trained, size: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((1, size), np.uint8)).save(file, "PNG")
    with pytest.raises(ValueError, match=rf"^a drawing has 320 x 320 pixels, and this one \({size}, 1\)$"):
        look(network, None, base64.b64encode(file.getvalue()).decode())
