"""The shop on the command line.

python -m examples.shop                the demo: breaks the shop in every way it is made for
python -m examples.shop serve [URL]    the service alone, until SIGTERM
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio

from understudy import run
from understudy.supervisors.logs import LOGGER, configure

from .demo import demo
from .service import shop
from .story import Story, StoryBroken

URL: Final = "tcp://127.0.0.1:3001"


def tell(keep: str | None) -> int:
    """Run the demo; returns the exit code."""
    story = Story()
    LOGGER.addHandler(story)
    with folder_for(keep) as folder, (folder / "shop.log").open("w") as log:
        configure("text", stream=log)
        try:
            trio.run(demo, folder, story)
        except (StoryBroken, AssertionError) as error:
            print(f"This did not happen: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            # Who listened has left; Python flushes stdout once more: into nothing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    if keep is not None:
        story.say(f"The whole log and the dead letters are in {keep}.")
    return 0


@contextmanager
def folder_for(keep: str | None) -> Iterator[Path]:
    if keep is None:
        with TemporaryDirectory(prefix="shop-") as folder:
            yield Path(folder)
    else:
        Path(keep).mkdir(exist_ok=True)
        yield Path(keep)


def main() -> None:
    parser = argparse.ArgumentParser(prog="shop", description="A shop under supervision.")
    modes = parser.add_subparsers(dest="mode", metavar="MODE")
    telling = modes.add_parser("demo", help="tell what supervision does (the default)")
    telling.add_argument("--keep", metavar="FOLDER", help="keep the log and the dead letters there")
    serving = modes.add_parser("serve", help="run the service alone")
    serving.add_argument("url", nargs="?", default=URL, help=f"where to listen ({URL})")
    given = parser.parse_args()
    if given.mode == "serve":
        run(shop(given.url))
    else:
        sys.exit(tell(getattr(given, "keep", None)))


if __name__ == "__main__":
    main()
