"""The page that explains a trained network: its files, its numbers, and what it does in a real browser."""

import contextlib
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image
from torch.nn import functional as F

from cnn_lab.errors import CnnLabError, ConfigError
from cnn_lab.explain import animation, arithmetic, drawings
from cnn_lab.explain.explain import explain, find_test_image, write_page
from cnn_lab.explain.numbers import MINUS, TIMES
from cnn_lab.explain.page import fill_page
from cnn_lab.explain.story import Slide, Story, tell_story
from cnn_lab.model import CNN
from cnn_lab.runs.trained import Trained, load_trained
from cnn_lab.shapes import output_size
from cnn_lab.sources.idx import read_mnist
from conftest import TrainedRun, open_browser, run_script

PICTURES = {
    "1-image.png", "2-flattened.png", "3-convolution.gif", "4-stride-padding.gif", "5-kernels.png",
    "6-channels.png", "7-pooling.png", "8-block-1.png", "8-block-2.png", "9-linear.png", "10-softmax.png",
}  # fmt: skip
HOSTILE = "<script>alert(1)<script>{{data}}'\".png"
NETWORKS: list[dict[str, Any]] = [
    {"channels": [4], "kernel_sizes": 7, "strides": 2, "paddings": 0, "pool": "none", "hidden": []},
    {"channels": [6, 5, 4], "kernel_sizes": 4, "norm": "batch", "activation": "gelu", "hidden": [9, 8]},
    {"channels": [70], "kernel_sizes": 1, "pool": "avg", "activation": "tanh"},
    {"channels": [1, 1], "kernel_sizes": [2, 3], "pool": ["none", "max"], "activation": "elu", "hidden": [1]},
    {"channels": [3], "kernel_sizes": 31, "paddings": 2, "pool": "none", "activation": "silu"},
    {"channels": [2] * 4, "kernel_sizes": 3, "activation": "leaky_relu", "strides": [1, 1, 1, 2]},
]


@pytest.fixture(scope="module")
def network(trained: TrainedRun) -> Trained:
    return load_trained(trained.path / "checkpoints" / "best.ckpt")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Animations of one frame and no bars, since many take long."""

    def draw_slide(slide: Slide) -> Image.Image:
        return animation.draw_frame(slide, slide.output, slide.output.size - 1)

    monkeypatch.setattr(drawings, "draw_slide", draw_slide)
    monkeypatch.setattr(drawings, "draw_softmax", lambda story: b"")


@pytest.fixture(scope="module")
def page(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the command writes for the fourth test image, a 0."""
    folder = tmp_path_factory.mktemp("page") / "new"
    done = run_script(
        "explain.py", str(trained.path), "--index", "3", "--output", str(folder), cwd=folder.parent
    )
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "printed").write_text(done.stdout)
    return folder / "explain-3.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that is asked to keep still."""
    with open_browser("--force-prefers-reduced-motion") as browser:
        yield browser


def open_page(browser: Any, path: Path, width: int = 1400) -> Any:
    """Open a page in a window of this width, and check that nothing but itself is fetched."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} <= {path.as_uri()}
    assert browser.get_log("browser") == []
    return browser


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def set_value(browser: Any, selector: str, value: Any) -> None:
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        find(browser, selector),
        value,
    )


def read_text(page: str) -> str:
    """What stands on a page, without its marks and with plain spaces."""
    body = re.sub(r"<(script|style|template)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def read_rows(page: str, table: str) -> list[list[str]]:
    body = re.search(rf'<table class="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*</tr>", body[1])]
    return [[read_text(cell).strip() for cell in row] for row in cells]


def find_pixels(index: int) -> tuple[np.ndarray, int]:
    """A test image of MNIST (28, 28) and its label."""
    images, labels = read_mnist()["test"]
    return images[index, 0], int(labels[index])


def test_the_command_writes_one_page_and_its_pictures(page: Path, network: Trained) -> None:
    pixels, label = find_pixels(3)
    shares = network.predict(pixels[None, None])[0]
    guess = int(shares.argmax())
    truth = "which is correct" if guess == label else f"which is wrong: it is {label}"
    assert (page.parent / "printed").read_text() == (
        f"test image 3 of MNIST: {guess} ({shares[guess]:.2%}), {truth}\nPage: new/explain-3.html\n"
    )
    assert {path.name for path in page.parent.iterdir()} == {"explain-3.html", "explain-3", "printed"}
    assert {path.name for path in (page.parent / "explain-3").iterdir()} == PICTURES
    assert page.stat().st_size < 3e6
    for path in (page.parent / "explain-3").iterdir():
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100
            frames = getattr(picture, "n_frames", 1)
        assert (frames > 30) == (path.suffix == ".gif")
        assert path.stat().st_size < 1.5e6


def test_nothing_on_the_page_leads_out_of_it(page: Path) -> None:
    text = page.read_text()
    assert "{{" not in text
    assert not re.search(r"https?://|@import|url\(", text)
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert all(source.startswith(("data:", "#", "explain-3/")) for source in sources)
    files = {source.removeprefix("explain-3/") for source in sources if source.startswith("explain-3/")}
    assert files == PICTURES
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", text))


def test_the_tables_have_the_sizes_and_parameters_of_the_network(page: Path, network: Trained) -> None:
    net = network.require_cnn("the test")
    text = page.read_text()
    layers = {layer.name: layer for layer in net.layers}
    assert read_rows(text, "convolutions") == [
        ["block 1", "28", "1", "3", "1", f"floor((28 + 2·1 {MINUS} 3) / 1) + 1 = 28", f"8 {TIMES} 28 {TIMES} 28",
         f"8 · (1 · 3 · 3 + 1) = {layers['block 1 conv'].parameters}"],
        ["block 2", "14", "1", "3", "1", f"floor((14 + 2·1 {MINUS} 3) / 1) + 1 = 14", f"16 {TIMES} 14 {TIMES} 14",
         f"16 · (8 · 3 · 3 + 1) = {layers['block 2 conv'].parameters:,}"],
    ]  # fmt: skip
    assert [(row[0], row[2], row[3]) for row in read_rows(text, "layers")] == [
        (layer.name, f" {TIMES} ".join(f"{size:,}" for size in layer.output), f"{layer.parameters:,}")
        for layer in net.layers
    ]
    words = read_text(text)
    assert "103,018 parameters" in words
    assert "16 · 7 · 7 = 784 numbers" in words
    assert "(784 + 1) · 128 = 100,480 parameters, 97.5 % of the network's" in words


def test_logits_and_probabilities_are_pytorchs(page: Path, network: Trained) -> None:
    pixels, _ = find_pixels(3)
    with torch.inference_mode():
        logits = network.net(network.normalise(pixels[None, None]))[0]
    rows = read_rows(page.read_text(), "bars")
    assert [row[0] for row in rows] == network.classes
    for row, logit, share in zip(rows, logits.tolist(), logits.softmax(dim=0).tolist(), strict=True):
        assert float(row[1].replace(MINUS, "-")) == pytest.approx(logit, abs=0.0051)
        shown = float(row[4].strip("<> %"))
        assert shown == pytest.approx(100 * share, abs=0.0101)
    difference = re.search(
        r"differ from PyTorch's by at most ([\d.]+) · 10 .(\d+)", read_text(page.read_text())
    )
    assert difference
    assert float(difference[1]) * 10 ** -float(difference[2]) < 1e-4


@pytest.mark.parametrize("settings", NETWORKS, ids=lambda settings: "-".join(map(str, settings["channels"])))
def test_every_network_that_the_config_can_express(
    settings: dict, network: Trained, tmp_path: Path, quick: None
) -> None:
    torch.manual_seed(0)
    net = CNN(**settings, input_shape=(1, 28, 28), num_classes=10).eval()
    other = with_net(network, net)
    page, story = explain(other, tmp_path / "run", tmp_path, index=1)
    text = page.read_text()
    assert "nan" not in read_text(text).lower().split()
    shown = read_rows(text, "convolutions")
    convolutions = [layer for layer in net.layers if layer.name.endswith("conv")]
    for row, layer in zip(shown, convolutions, strict=True):
        assert row[6] == f" {TIMES} ".join(map(str, layer.output))
        assert row[5].endswith(f"= {layer.output[1]}")
        assert row[7].endswith(f"= {layer.parameters:,}")
    assert ("6-channels.png" in text) == (len(convolutions) > 1)
    expected = other.predict(find_pixels(1)[0][None, None])[0]
    np.testing.assert_allclose(story.probabilities, expected, rtol=0, atol=1e-4)


def with_net(network: Trained, net: torch.nn.Module) -> Trained:
    """The same run with another network."""
    classifier = type("Classifier", (), {"net": net})()
    return replace(network, classifier=classifier)


def test_more_than_64_maps_are_said_to_be_more() -> None:
    assert drawings.count_maps(np.zeros((512, 3, 3))) == "64 of 512 maps of 3 x 3"
    assert drawings.count_maps(np.zeros((1, 3, 4))) == "1 map of 3 x 4"


def test_arithmetic_that_differs_from_pytorch_writes_no_page(
    network: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "max_pool", arithmetic.avg_pool)
    with pytest.raises(
        CnnLabError, match=r"^the page's arithmetic and PyTorch differ by .* no page was written$"
    ):
        explain(network, tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_picture_with_a_hostile_name_is_told_as_text(network: Trained, tmp_path: Path, quick: None) -> None:
    path = tmp_path / HOSTILE
    digit, _ = find_pixels(3)
    Image.fromarray(255 - digit).resize((200, 200)).save(path)
    page, story = explain(network, tmp_path / "<b>run", tmp_path, image=path)
    text = page.read_text()
    assert (story.truth, story.example.source) == ("", f"the picture {HOSTILE}")
    assert "<script>alert" not in text
    assert "<b>run" not in text
    assert escape(HOSTILE) in text
    assert "The picture that was given" in text


def test_text_from_outside_cannot_end_the_pages_data(
    network: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = tell_story(network, "run", find_test_image(network, 0))
    monkeypatch.setattr(Story, "pooled", ("</script><b>", story.image[0], (0, 0)))
    pictures = dict.fromkeys(PICTURES, b"")
    assert "</script><b>" not in fill_page(story, pictures, "explain")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--index", "10000"],
            "--index 10000 is out of range: MNIST has 10,000 test images, 0 to 9999",
        ),
        (
            ["--index", "-1"],
            "--index -1 is out of range: MNIST has 10,000 test images, 0 to 9999",
        ),
        (["--image", "missing.png"], "missing.png cannot be read: No such file or directory"),
        (["--image", "blank.png"], "--image blank.png: the picture is empty; give a picture of one digit"),
    ],
)
def test_mistakes_are_told_in_one_message(
    arguments: list[str], message: str, network: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (50, 50), "white").save("blank.png")
    option, value = arguments
    given = {"index": int(value)} if option == "--index" else {"image": Path(value)}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$") as caught:
        explain(network, tmp_path, tmp_path / "page", **given)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "page").exists()


def test_other_networks_and_places_that_cannot_be_written_are_refused(
    network: Trained, tmp_path: Path
) -> None:
    shape = {"input_shape": (1, 28, 28), "num_classes": 10}
    for net in (torch.nn.Flatten(), CNN(channels=[], **shape), CNN(head="average", **shape)):
        with pytest.raises(
            ConfigError, match=r"^explain needs a network with convolutional blocks whose maps"
        ):
            explain(with_net(network, net), tmp_path, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnLabError, match=r"file/explain cannot be written: Not a directory$"):
        write_page(tmp_path / "file", "explain", "", {})


def test_a_second_page_replaces_the_first_and_its_pictures(
    network: Trained, tmp_path: Path, quick: None
) -> None:
    first, _ = explain(network, tmp_path, tmp_path)
    text = first.read_text()
    assert {path.name for path in (tmp_path / "explain").iterdir()} == PICTURES
    (tmp_path / "explain" / "8-block-2-mine.png").touch()
    small = with_net(network, CNN(channels=[4], input_shape=(1, 28, 28), num_classes=10).eval())
    second, _ = explain(small, tmp_path, tmp_path)
    assert second == first
    assert second.read_text() != text
    left = {path.name for path in (tmp_path / "explain").iterdir()}
    assert left == PICTURES - {"6-channels.png", "8-block-2.png"} | {"8-block-2-mine.png"}


def test_pages_of_other_digits_have_names_of_their_own(network: Trained, tmp_path: Path, quick: None) -> None:
    first, _ = explain(network, tmp_path, tmp_path)
    text = first.read_text()
    picture = tmp_path / "an eight & more.png"
    Image.fromarray(find_pixels(8)[0]).resize((200, 200)).save(picture)
    others = [
        explain(network, tmp_path, tmp_path, **digit)[0] for digit in ({"index": 8}, {"image": picture})
    ]
    assert [page.name for page in others] == ["explain-8.html", "explain-an-eight-more.html"]
    assert first.read_text() == text
    for page in others:
        assert f'href="{page.stem}/1-image.png"' in page.read_text()
        assert {path.name for path in (tmp_path / page.stem).iterdir()} == PICTURES


def test_the_animation_writes_out_the_dot_product(network: Trained) -> None:
    story = tell_story(network, "run", find_test_image(network, 3))
    slide, other = story.slides
    products = np.pad(slide.image, slide.padding)[10:13, 12:15] * slide.kernel
    lines = animation.write_sum(products, slide.bias).replace(MINUS, "-").splitlines()
    terms = [float(term.strip("()")) for term in lines[0].split(" + ")]
    assert terms == pytest.approx(products.ravel().tolist(), abs=0.0051)
    index = int(story.order[0])
    assert float(lines[1].split(" = ")[-1]) == pytest.approx(
        story.steps[0].output[index][10, 12], abs=0.00051
    )
    assert "the sum of the 16 products" in animation.write_sum(np.ones((4, 4)), 0.5)
    assert other.output.shape == (13, 13)
    assert animation.describe_slide(other).endswith(f"floor((28 + 2·0 {MINUS} 3) / 2) + 1 = 13")


@pytest.mark.parametrize("width", [1400, 390, 360])
def test_the_page_fits_wide_and_narrow_windows(page: Path, browser: Any, width: int) -> None:
    open_page(browser, page, width)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(
        "return [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('.widget')].filter((part) => part.offsetHeight < 300).length"
    )
    assert hidden == 0


def test_stepping_changes_the_dot_product_to_the_right_one(
    page: Path, browser: Any, network: Trained
) -> None:
    open_page(browser, page)
    expected = run_first_layer(network, 3)
    chosen = browser.execute_script("return window.explain.data.kernels[0].name")
    result = expected[int(chosen.split()[1]) - 1].flatten()
    shown = int(find(browser, "#own .position").get_attribute("value"))
    assert shown == int(result.argmax())
    for button, move in (("step", 1), ("step", 1), ("back", -1)):
        find(browser, f"#own .{button}").click()
        shown += move
        text = find(browser, "#own .sum").text.replace(MINUS, "-")
        assert float(text.split(" = ")[-1]) == pytest.approx(float(result[shown]), abs=0.00051)
    products = [
        float(cell.text.replace(MINUS, "-"))
        for cell in browser.find_elements("css selector", "#own .products span")
    ]
    assert sum(products) == pytest.approx(float(text.split(" = ")[1].split(";")[0]), abs=0.05)
    set_value(browser, "#own .position", 0)
    assert find(browser, "#own .place").text == "1 of 784: row 1, column 1"


def run_first_layer(network: Trained, index: int) -> torch.Tensor:
    """The first convolution's maps of a test image, by PyTorch."""
    with torch.inference_mode():
        return (
            network.require_cnn("the test")
            .blocks[0]
            .conv(network.normalise(find_pixels(index)[0][None, None]))[0]
        )


def test_stride_and_padding_give_pytorchs_numbers(page: Path, browser: Any) -> None:
    open_page(browser, page)
    data = browser.execute_script("return window.explain.data")
    image = torch.tensor(data["image"])[None, None]
    names = [kernel["name"] for kernel in data["kernels"]]
    assert len(names) == 8 + 2
    for stride, padding in ((1, 0), (1, 1), (2, 0), (3, 2), (4, 4)):
        set_value(browser, "#free .stride", stride)
        set_value(browser, "#free .padding", padding)
        size = output_size(28, 3, padding, stride)
        formula = f"floor((28 + 2·{padding} {MINUS} 3) / {stride}) + 1 = {size}"
        assert find(browser, "#free .size").text == formula
        assert find(browser, "#free .output-text").text == f"the output, {size} {TIMES} {size}"
        for number in (0, len(names) - 2):
            kernel = data["kernels"][number]
            found = browser.execute_script(
                "const { data, convolve } = window.explain, kernel = data.kernels[arguments[0]];"
                "return convolve(data.image, kernel.weights, kernel.bias, arguments[1], arguments[2])",
                number, stride, padding,
            )  # fmt: skip
            weight = torch.tensor(kernel["weights"], dtype=torch.float)[None, None]
            bias = torch.tensor([float(kernel["bias"])])
            expected = F.conv2d(image, weight, bias, stride, padding)[0, 0]
            torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-4)


def test_pooling_gives_pytorchs_numbers(page: Path, browser: Any) -> None:
    open_page(browser, page)
    values = torch.tensor(browser.execute_script("return window.explain.data.pooled.map"))[None, None]
    for kind, pool in (("max", F.max_pool2d), ("avg", F.avg_pool2d)):
        found = browser.execute_script(
            f"return window.explain.pool(window.explain.data.pooled.map, '{kind}')"
        )
        torch.testing.assert_close(torch.tensor(found), pool(values, 2)[0, 0], rtol=1e-5, atol=1e-5)
    set_value(browser, "#pool .down", 5)
    set_value(browser, "#pool .right", 4)
    cells = [
        float(cell.text.replace(MINUS, "-"))
        for cell in browser.find_elements("css selector", "#pool .max-patch span")
    ]
    expected = F.max_pool2d(values, 2)[0, 0, 5:7, 4:6].flatten()
    assert cells == pytest.approx(expected.tolist(), abs=0.0051)


def test_it_plays_and_pauses_and_keeps_still_when_asked_to(page: Path, browser: Any) -> None:
    open_page(browser, page)
    browser.execute_script("document.getElementById('own').scrollIntoView()")
    play = find(browser, "#own .play")
    assert play.text == "Play"
    before = find(browser, "#own .place").text
    with contextlib.suppress(AssertionError):
        wait_for_change(browser, before, 0.5)
        raise RuntimeError("it moved")
    play.click()
    assert play.text == "Pause"
    wait_for_change(browser, before, 5)
    play.click()
    assert play.text == "Play"


def wait_for_change(browser: Any, before: str, seconds: float) -> None:
    changed = browser.execute_async_script(
        "const [before, wait, done] = arguments, end = Date.now() + 1000 * wait;"
        "(function look() {"
        "  const now = document.querySelector('#own .place').textContent;"
        "  if (now !== before || Date.now() > end) { done(now !== before); } else { setTimeout(look, 50); }"
        "})()",
        before,
        seconds,
    )
    assert changed
