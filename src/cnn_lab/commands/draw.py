"""Open a page to draw a digit on, and see what a trained network makes of it as you draw."""

import argparse

from cnn_lab.runs.directory import find_run
from cnn_lab.terminal.command import add_run
from cnn_lab.terminal.waiting import hush, say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_run(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=read_port, default=7860, help="the port; 0 chooses a free one (default: %(default)s)"
    )
    arguments = parser.parse_args()
    run_dir, checkpoint = find_run(arguments.run)

    say("Loading Gradio")
    from cnn_lab.use.drawing import build_page, describe, format_address, import_gradio, listen, serve

    with listen(arguments.host, arguments.port) as listener:
        import_gradio()

        say("Loading PyTorch")
        from cnn_lab.runs.trained import load_trained  # after all that may be missing, since it takes seconds
        from cnn_lab.use.prediction import learn_likeness

        trained = load_trained(checkpoint, arguments.trust)
        about = describe(trained, run_dir)
        page = build_page(trained, about, learn_likeness(trained))
        hush()
        print(about)
        print(f"Draw a digit at {format_address(listener)} (Ctrl+C ends it)", flush=True)
        serve(page, listener)


def read_port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number from 0 to 65535")
    return int(text)
