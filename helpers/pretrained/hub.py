"""Files of a model hub, kept in the Hugging Face cache.

$HF_HOME (or $HF_HUB_CACHE) says where the cache is, $HF_ENDPOINT which hub,
$HF_TOKEN who asks, $HF_HUB_OFFLINE that nobody may. The cache has the layout
that every Hugging Face library reads. What differs from their own download:
a file that was cut off goes on where it stopped, even in another run; each
file's hash is compared with the hub's; nothing waits for longer than a few
seconds without a sign of life; and every failure is one sentence.
"""

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from helpers import artifacts
from helpers.errors import InputError

ENDPOINT = "https://huggingface.co"
SILENCE = 6.0  # seconds without an answer, or without a byte of one
PATIENCE = 8.0  # seconds for all of the first answer, name lookup included
CHUNK = 2**20  # bytes written at a time
MODEL, DATASET = "model", "dataset"


@dataclass(frozen=True)
class File:
    """One file of a repository, as the hub describes it."""

    path: str
    size: int  # bytes
    etag: str  # sha256, or git's name of its content

    def matches(self, file: Path) -> bool:
        """Whether a file on disk has this content."""
        if file.stat().st_size != self.size:
            return False
        if len(self.etag) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % self.size)
        with open(file, "rb") as stream:
            while part := stream.read(CHUNK):
                digest.update(part)
        return digest.hexdigest() == self.etag


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, and those of its files that are wanted."""

    name: str
    commit: str
    licence: str
    gated: bool
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def missing(self) -> list[File]:
        """The files that are not in the cache yet."""
        folder = cache_folder(self.name) / "snapshots" / self.commit
        return [f for f in self.files if not (folder / f.path).exists()]


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether $HF_HUB_OFFLINE forbids to ask the hub."""
    said = os.environ.get("HF_HUB_OFFLINE", "")
    return said.upper() in ("1", "ON", "YES", "TRUE")


def cache() -> Path:
    """The folder of all that was downloaded."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    folder = os.environ.get("HF_HUB_CACHE", os.path.join(home, "hub"))
    return Path(os.path.expandvars(folder)).expanduser()


def cache_folder(name: str) -> Path:
    """The folder of one repository in the cache."""
    return cache() / ("models--" + name.replace("/", "--"))


def snapshot(name: str) -> Path | None:
    """The files of a repository that are in the cache, or None."""
    folder = cache_folder(name)
    try:
        commit = (folder / "refs" / "main").read_text().strip()
    except FileNotFoundError:
        return None
    found = folder / "snapshots" / commit
    return found if found.is_dir() else None


def listing(name: str, patterns: Sequence[str]) -> Listing:
    """What the hub says of a repository: one request.

    Only files that match one of the ``patterns`` (``*.json``) are listed.
    Raises InputError if the hub cannot be asked or does not know it.
    """
    from huggingface_hub import HfApi

    if is_offline():
        raise absent(name, "HF_HUB_OFFLINE is set")
    api = HfApi(endpoint=endpoint())
    with told(name):
        found = within(
            PATIENCE,
            lambda: api.model_info(name, files_metadata=True, timeout=SILENCE),
        )
    files = [
        File(
            part.rfilename,
            part.size or 0,
            part.lfs.sha256 if part.lfs else part.blob_id or "",
        )
        for part in found.siblings or []
        if any(fnmatch(part.rfilename, pattern) for pattern in patterns)
    ]
    return Listing(
        name, found.sha, _licence(found), bool(found.gated), tuple(files)
    )


def download(
    wanted: Listing, say: Callable[[int], None] = lambda count: None
) -> Path:
    """Put the files that are missing into the cache; its snapshot.

    ``say`` is told how many bytes more are there. Each file is checked
    against its hash before it takes its place. A file cut off goes on from
    its last byte, at once and, where that is in vain, in the next run.
    Raises InputError when it cannot go on.
    """
    folder = cache_folder(wanted.name)
    place = folder / "snapshots" / wanted.commit
    for file in wanted.files:
        link = place / file.path
        if link.exists():
            say(file.size)
            continue
        blob = folder / "blobs" / file.etag
        with full_disk_told():
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                _download(wanted, file, blob, say)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    artifacts.write_text(folder / "refs" / "main", wanted.commit)
    return place


def damaged(wanted: Listing) -> list[File]:
    """Remove files of the cache that are not what the hub has; which."""
    place = cache_folder(wanted.name) / "snapshots" / wanted.commit
    found = []
    for file in wanted.files:
        link = place / file.path
        if link.exists() and not file.matches(link):
            found.append(file)
            link.resolve().unlink()
            link.unlink(missing_ok=True)
    return found


def absent(name: str, why: str, size: int = 0) -> InputError:
    """The error for what is neither here nor to be had."""
    much = f" ({gigabytes(size)})" if size else ""
    return InputError(
        f"{name}{much} is not on this machine and {why}; where there is a "
        f"network, download it (`make fetch`) and copy it to "
        f"{cache_folder(name)}, or name a local folder instead"
    )


def gigabytes(size: float) -> str:
    """Bytes for a person: ``548 MB``, ``5.01 GB``.

    >>> gigabytes(5_012_345_678)
    '5.01 GB'
    """
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def within(seconds: float, ask: Callable):
    """The answer to ``ask()``, or TimeoutError.

    Looking up a name has no time limit of its own; the thread that still
    does it ends with the process.
    """
    answer: list = []

    def work() -> None:
        try:
            answer.append((ask(), None))
        except BaseException as error:  # the one who waits is to have it
            answer.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise TimeoutError
    value, error = answer[0]
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Tell in one sentence what went wrong with a repository."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise _gated(name, error.response.status_code) from None
    except errors.RepositoryNotFoundError:
        raise _unknown(name) from None
    except errors.HFValidationError:
        raise InputError(
            f"{name!r} is not a name of a repository; give a name such as "
            "openai-community/gpt2, or the path of a folder"
        ) from None
    except errors.HfHubHTTPError as error:
        raise _down(name, error.response.status_code) from None
    except errors.OfflineModeIsEnabled:
        raise absent(name, "HF_HUB_OFFLINE is set") from None
    except (httpx2.TransportError, TimeoutError) as error:
        quiet = isinstance(error, TimeoutError | httpx2.TimeoutException)
        why = "does not answer" if quiet else "cannot be reached"
        raise absent(name, f"{endpoint()} {why}") from None


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """A full disk is one sentence too."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"no disk space left in {cache()}; free some, or set HF_HOME to "
            "a larger disk, and run again: what was downloaded is kept"
        ) from error


def _licence(info) -> str:
    card = getattr(info, "card_data", None)
    tags = [t for t in info.tags or [] if t.startswith("license:")]
    said = getattr(card, "license", None) or (tags or ["license:unknown"])[0]
    return str(said).removeprefix("license:")


def _download(wanted: Listing, file: File, blob: Path, say: Callable) -> None:
    """Fetch one file beside ``blob``, check it, and give it that name."""
    from huggingface_hub.utils import WeakFileLock

    lock = cache() / ".locks" / cache_folder(wanted.name).name
    lock.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock / f"{file.etag}.lock"):
        if blob.exists():  # another process was faster
            say(file.size)
            return
        partial = blob.with_name(f"{file.etag}.partial")
        say(partial.stat().st_size if partial.exists() else 0)
        while _go_on(wanted, file, partial, say):
            pass
        if not file.matches(partial):
            partial.unlink()
            raise InputError(
                f"{file.path} of {wanted.name} was damaged on its way (its "
                "hash is not the hub's) and thrown away; run again"
            )
        os.replace(partial, blob)


def _go_on(wanted: Listing, file: File, partial: Path, say: Callable) -> bool:
    """Fetch what is left; True if it was cut off but some more came."""
    import httpx2
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    before = partial.stat().st_size if partial.exists() else 0
    if before >= file.size > 0:
        return False
    url = hf_hub_url(
        wanted.name, file.path, revision=wanted.commit, endpoint=endpoint()
    )
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if before:
        headers["Range"] = f"bytes={before}-"
    try:
        with told(wanted.name), get_session().stream(
            "GET", url, headers=headers, timeout=SILENCE, follow_redirects=True
        ) as answer:  # fmt: skip
            hf_raise_for_status(answer)
            _write(answer, partial, before, say)
    except InputError as error:
        cause = error.__context__
        cut = isinstance(cause, httpx2.RemoteProtocolError | httpx2.ReadError)
        got = partial.stat().st_size if partial.exists() else 0
        if cut and got > before:
            return True
        if isinstance(cause, httpx2.TransportError | TimeoutError):
            raise _cut_off(wanted.name, file, got) from None
        raise
    return False


def _write(answer, partial: Path, before: int, say: Callable) -> None:
    resumed = before and answer.status_code == 206
    if before and not resumed:  # it sends all of it again
        say(-before)
    with open(partial, "ab" if resumed else "wb") as stream:
        for part in answer.iter_bytes():
            stream.write(part)
            say(len(part))


def _cut_off(name: str, file: File, got: int) -> InputError:
    return InputError(
        f"the download of {name} was cut off ({gigabytes(got)} of "
        f"{gigabytes(file.size)} of {file.path} are here) and {endpoint()} "
        "does not answer any more; run again to go on from there"
    )


def _gated(name: str, status: int) -> InputError:
    if status == 401:
        how = f"make a token at {endpoint()}/settings/tokens and set HF_TOKEN"
    else:
        how = "the token that was given (HF_TOKEN) has no access yet"
    return InputError(
        f"{name} is gated: accept its licence at {endpoint()}/{name}; {how}"
    )


def _unknown(name: str) -> InputError:
    from helpers.pretrained.names import near

    return InputError(
        f"{endpoint()} has no repository {name!r}, or a private one that "
        f"HF_TOKEN gives no access to{near(name)}"
    )


def _down(name: str, status: int) -> InputError:
    return InputError(
        f"{endpoint()} answers with error {status} when asked for {name}; "
        "try again later, or set HF_ENDPOINT to a mirror: what was "
        "downloaded is kept"
    )
