"""The page to draw a digit on: the guess of a trained network and its feature maps, as one draws.

Importing this imports neither torch nor Gradio, which take seconds.
"""

import atexit
import base64
import errno
import html
import io
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from cnn_lab.errors import ConfigError
from cnn_lab.pictures.digits import DIGIT_SHARE, find_digit
from cnn_lab.pictures.sheets import Tile, draw_sheet, enlarge
from cnn_lab.pictures.style import BLUE, GRAY, ORANGE, shade
from cnn_lab.runs.record import read_result
from cnn_lab.settings.extras import install_hint

if TYPE_CHECKING:
    import gradio

    from cnn_lab.runs.trained import Trained
    from cnn_lab.use.likeness import Likeness
    from cnn_lab.use.prediction import Prediction

CANVAS = 320  # pixels
SEEN_SIDE, MAP_SIDE = 112, 56  # pixels, multiples of the sides of images and of most maps
LEAST_COLUMNS = 8  # of maps in a row
PNG = "data:image/png;base64,"
HTML, CSS, SCRIPT = (
    Path(__file__).with_name(f"draw.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
)
PARTS: Any = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(HTML).module
# Gradio puts each rule below an element of its own, where no :root is.
COLORS = f"* {{ --blue: {BLUE}; --gray: {GRAY}; --orange: {ORANGE}; }}\n"


def look(trained: "Trained", likeness: "Likeness | None", drawing: str | None) -> tuple[str, str]:
    """What the page shows of a drawing, as HTML: the network's guess, and what it sees with its feature maps.

    Args:
        likeness: what tells that a drawing is unlike the network's images.
        drawing: a PNG as a `data:` URL, dark on light; empty for nothing drawn.
    """
    from cnn_lab.use.prediction import predict

    if not drawing:
        return _show_nothing(trained, "Draw a digit", "and watch what the network makes of it")
    digit = find_digit(_decode(drawing), trained.data.input_shape[-1])
    if digit.problem:
        return _show_nothing(trained, "No digit yet", "draw one, taller than wide")
    (prediction,) = predict(trained, [digit], likeness)
    guess = PARTS.guess(*_phrase(prediction), trained.classes, list(prediction.shares.values()))
    return guess, _format_images(digit.pixels, _feature_maps(trained, digit.pixels))


def _show_nothing(trained: "Trained", headline: str, detail: str) -> tuple[str, str]:
    """White maps instead of none, so that nothing on the page moves when the first stroke is drawn."""
    nothing = np.zeros(trained.data.input_shape[1:], np.uint8)
    blank = [np.zeros_like(maps) for maps in _feature_maps(trained, nothing)]
    guess = PARTS.guess(headline, detail, trained.classes, [])
    return guess, _format_images(nothing, blank)


def _feature_maps(trained: "Trained", pixels: np.ndarray) -> list[np.ndarray]:
    """(channels, height, width) for each block; empty for a network without blocks."""
    import torch

    if not hasattr(type(trained.net), "feature_maps"):
        return []
    with torch.inference_mode():
        return [maps[0].numpy() for maps in trained.net.feature_maps(trained.normalise(pixels[None, None]))]


def _phrase(prediction: "Prediction") -> tuple[str, str]:
    (first, share), (second, _), *_ = prediction.ranking
    if prediction.guess:
        return first, f"with probability {share:.2%}"
    return "Unsure", prediction.problem or f"perhaps {first}, perhaps {second}"


def _format_images(pixels: np.ndarray, blocks: Sequence[np.ndarray]) -> str:
    side = len(pixels)
    pictures = {f"input: {side} x {side}": enlarge(pixels, SEEN_SIDE)}
    for number, maps in enumerate(blocks, 1):
        count, height, width = maps.shape
        columns = max(LEAST_COLUMNS, math.ceil(math.sqrt(count)))
        sheet = draw_sheet([Tile(tile) for tile in shade(maps)], columns, MAP_SIDE)
        pictures[f"block {number}: {count} maps of {height} x {width}"] = sheet
    figures = [(caption, _encode(picture), *picture.size) for caption, picture in pictures.items()]
    return PARTS.images(round(DIGIT_SHARE * side), figures)


def _encode(picture: Image.Image) -> str:
    """A picture as a `data:` URL, which needs no file."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return PNG + base64.b64encode(file.getvalue()).decode()


def _decode(drawing: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(drawing.removeprefix(PNG))), formats=["PNG"])
    if picture.size != (CANVAS, CANVAS):  # before its pixels are unpacked
        raise ValueError(f"a drawing has {CANVAS} x {CANVAS} pixels, and this one {picture.size}")
    return picture.reduce(2)  # finding the digit takes a third of the time then, and finds the same


def describe(trained: "Trained", run_dir: Path) -> str:
    """The run, its network and its accuracy, in one line."""
    result = read_result(run_dir)
    parameters = sum(parameter.numel() for parameter in trained.net.parameters())
    words = [f"{type(trained.net).__name__}, {parameters:,} parameters", f"after epoch {trained.epoch}"]
    accuracy = result.get("test/accuracy")
    measured = (result.get("best") or {}).get("epoch", result.get("epochs"))
    if accuracy is not None and measured == trained.epoch:
        words.append(f"test accuracy {accuracy:.2%} on {result['dataset']['name']}")
    return f"{run_dir.resolve().name}: {', '.join(words)}"


def import_gradio() -> Any:
    """Gradio, kept from sending anything anywhere and from leaving files behind.

    Raises:
        ConfigError: when it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "GRADIO_TEMP_DIR" not in os.environ:  # Gradio's own, /tmp/gradio, may be another user's
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="cnn-lab-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(f"drawing needs Gradio, which is not installed; {install_hint('draw')}") from error
    return gradio


def build_page(trained: "Trained", about: str, likeness: "Likeness | None" = None) -> "gradio.Blocks":
    """The page, with `about` below its title. A drawing is kept in its browser alone: users share nothing.

    Raises:
        ConfigError: when Gradio is missing, or the network takes other images than gray squares.
    """
    trained.require_gray("draw")
    gr = import_gradio()
    guess, images = look(trained, likeness, "")
    plain = {"apply_default_css": False, "js_on_load": None}
    with gr.Blocks(title="Draw a digit - cnn-lab") as page:
        gr.HTML(f"<h1>cnn-lab</h1><p>{html.escape(about)}</p>", elem_classes="head", **plain)
        with gr.Row():
            with gr.Column(scale=0, min_width=CANVAS):
                board = gr.HTML(
                    "", html_template=PARTS.board(CANVAS), js_on_load=SCRIPT, apply_default_css=False
                )
            with gr.Column(min_width=CANVAS):
                guess = gr.HTML(guess, **plain)
        images = gr.HTML(images, **plain)
        board.input(
            partial(look, trained, likeness),
            board,
            [guess, images],
            queue=False,
            trigger_mode="always_last",  # one at a time, and never without the last stroke
            show_progress="hidden",
            api_visibility="private",
        )
    return page


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes any that is free.

    Raises:
        ConfigError: when it is in use, or the host is no address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use by another program; type --port PORT with another one, or "
                "--port 0 for any that is free"
            ) from error
        raise ConfigError(f"--host {host} --port {port} cannot be listened on: {error.strerror}") from error


def format_address(listener: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(page: "gradio.Blocks", listener: socket.socket) -> None:
    """Answer browsers until Ctrl+C, which raises KeyboardInterrupt here.

    Gradio's own `launch` would ask itself through the proxies of the environment whether it is there.
    """
    import uvicorn
    from fastapi import FastAPI

    gr = import_gradio()
    app = gr.mount_gradio_app(
        FastAPI(),
        page,
        path="/",
        css=COLORS + CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=1,  # byte: nobody uploads files
    )
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
