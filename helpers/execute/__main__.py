"""Command line of the executor; the Makefile is its usual caller."""

import argparse
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator

from helpers import artifacts, paths, progress
from helpers.errors import InputError
from helpers.execute import book, chapters, origin, parameters, results


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit status.

    0 done, 1 a chapter or the book failed, 2 bad input, 130 interrupted.
    """
    arguments = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.command(arguments)
        return 0
    except (InputError, chapters.ChapterFailed, book.BuildFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        print("error: no disk space left; free some and run again, "
              "finished work is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, the same command goes on "
              "from there", file=sys.stderr)
        return 130


def run(arguments) -> None:
    """Bring every chapter up to date, build the book, compare."""
    notebooks = chapters.sources()
    profile = arguments.profile
    values = parameters.resolve(notebooks, profile, arguments.params)
    names = _selected(arguments.only, notebooks)
    model = origin.bring({name: values[name] for name in names})
    start = time.monotonic()
    with _alone(profile):
        ran = [
            _chapter(name, origin.suited(notebooks[name], bool(model)),
                     profile, values[name], f"{number}/{len(names)}")
            for number, name in enumerate(names, 1)
        ]
        _book(profile, complete=len(names) == len(notebooks))
    for name in names:
        path = chapters.executed_path(profile, name)
        print(f"{name}: {results.comparison(name, profile, path)}")
    spent = progress.clock(time.monotonic() - start)
    print(f"{sum(ran)} of {len(names)} chapters ran, {spent}")


def publish(arguments) -> None:
    """Copy a finished run into book/."""
    parameters.resolve(chapters.sources(), arguments.profile, "")
    for name in book.publish(arguments.profile):
        print(f"published {name} ({arguments.profile})")


def build(arguments) -> None:
    """Build the published book."""
    print(f"the book: {_shown(book.build_published())}")


def _selected(only: str, notebooks: dict) -> list[str]:
    """The chapters to run: all, or those of ONLY with what they need."""
    if not only:
        return list(notebooks)
    wanted = set()
    for word in only.replace(",", " ").split():
        name = parameters.match_chapter(word, notebooks)
        wanted.update(chapters.with_needs(name, notebooks))
    return [name for name in notebooks if name in wanted]


def _chapter(name, notebook, profile, values, place) -> bool:
    start = time.monotonic()
    ran = chapters.bring_up_to_date(name, notebook, profile, values, place)
    spent = progress.clock(time.monotonic() - start)
    print(f"[{place}] {name}: " + (f"done in {spent}" if ran else "current"),
          flush=True)
    return ran


def _book(profile: str, complete: bool) -> None:
    if not complete:
        print("the book is built when all chapters have run (no ONLY)")
        return
    start = time.monotonic()
    page = book.build_run(profile)
    spent = progress.clock(time.monotonic() - start)
    print(f"the book: {_shown(page)} ({spent})", flush=True)


def _shown(path) -> str:
    return os.path.relpath(path, paths.ROOT)


@contextlib.contextmanager
def _alone(profile: str) -> Iterator[None]:
    """Keep a second run of the same profile out (it would overwrite)."""
    folder = paths.artifacts(profile)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run of profile {profile} is at work in "
                f"{artifacts.show(folder)}; wait for it or stop it first"
            ) from None
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="helpers.execute")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help=run.__doc__)
    one.add_argument("--profile", default="laptop")
    one.add_argument("--only", default="")
    one.add_argument("--params", default="")
    one.set_defaults(command=run)
    two = commands.add_parser("publish", help=publish.__doc__)
    two.add_argument("--profile", default="laptop")
    two.set_defaults(command=publish)
    three = commands.add_parser("book", help=build.__doc__)
    three.set_defaults(command=build)
    return parser


if __name__ == "__main__":
    sys.exit(main())
