"""Many pictures from the urls of a list: several at a time, a few from each host, verified, and resumable.

On httpx, because pooch knows no rate per host, no outcome for a row, and stops at the first failure.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from skingpt4.records.images import ImageError, open_image
from skingpt4.support.parse import parse_json
from skingpt4.weights.fetch.download import DownloadError

JOURNAL = "downloads.jsonl"
CHANGED = "changed"  # folder of pictures with another MD5 than listed
MAX_BYTES = 40_000_000
MAX_WAIT_SECONDS = 60.0  # however long a server's Retry-After is
# Every outcome of a download; those in FINAL are not asked for again.
STATUSES = {
    "kept": "downloaded, checksum as listed",
    "present": "there already",
    "no url": "no url in the list",
    "repeated": "listed more than once",
    "gone": "the server says that it is gone (404, 410)",
    "refused": "the server refuses (other 4xx)",
    "no picture": "the url gives something that is not a picture",
    "changed": f"not the listed picture; saved in {CHANGED}/ for inspection",
    "too large": f"more than {MAX_BYTES // 10**6} MB",
    "unreachable": "no complete answer after all tries; run again later",
}
FINAL = ("gone", "refused", "no picture", "changed", "too large")


@dataclass(frozen=True)
class ListedImage:
    """One row of the list: the image's MD5 (32 hex digits), which names its file, and its url, or ""."""

    md5: str
    url: str


@dataclass(frozen=True)
class Outcome:
    """How the download of an image ended: one of STATUSES, and the reason in words."""

    md5: str
    url: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class RequestLimits:
    """How much is asked of the servers."""

    parallel: int = 8
    per_host: int = 2
    rate: float = 2.0  # requests a second to one host
    tries: int = 3
    timeout_seconds: float = 30.0  # without a byte
    deadline_seconds: float = 180.0  # for one complete picture


@dataclass
class Host:
    """Limits the requests to one host: as many at once as it has slots, and never two within 1/rate seconds."""

    slots: asyncio.Semaphore
    next_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def turn(self, rate: float) -> AsyncIterator[None]:
        """Wait for a slot and for the time of the next request."""
        async with self.slots:
            async with self.lock:
                await asyncio.sleep(self.next_at - time.monotonic())
                self.next_at = time.monotonic() + 1 / rate
            yield

    def pause(self, seconds: float) -> None:
        """Make no request for so many seconds."""
        self.next_at = max(self.next_at, time.monotonic() + seconds)


class _RetryLater(Exception):
    """A failure that may pass after some seconds."""

    def __init__(self, reason: str, wait_seconds: float) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def target(folder: Path, md5: str) -> Path:
    """The file of a verified picture, named as in SKINCON's annotations."""
    return folder / f"{md5}.jpg"


def earlier_outcomes(folder: Path) -> dict[str, Outcome]:
    """The newest outcome of each MD5 in the journal of earlier runs; truncated lines are skipped."""
    outcomes: dict[str, Outcome] = {}
    path = folder / JOURNAL
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            outcome = Outcome(**parse_json(line))
        except (ValueError, TypeError):
            continue
        outcomes[outcome.md5] = outcome
    return outcomes


def run(
    images: Iterable[ListedImage],
    folder: Path,
    limits: RequestLimits = RequestLimits(),
    ask_again: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Counter[str]:
    """Download what is not there yet.

    Args:
        images: read one after the other, so that memory does not grow with the list.
        folder: gets `MD5.jpg`, and a journal from which a later run continues.
        limits: how much is asked of the servers.
        ask_again: ask again for what was gone or another picture in an earlier run.
        on_outcome: called with every outcome.

    Returns:
        How many ended with which status.

    Raises:
        DownloadError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f".{'[0-9a-f]' * 32}.part"):  # of a run that was killed
            part.unlink()
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:

            def record(outcome: Outcome) -> None:
                if outcome.status not in ("present", "repeated"):
                    journal.write(json.dumps(asdict(outcome)) + "\n")
                    journal.flush()
                on_outcome(outcome)

            return asyncio.run(
                _run(images, folder, limits, {} if ask_again else earlier_outcomes(folder), record)
            )
    except OSError as error:
        raise DownloadError(
            f"{folder}: cannot be written ({error.strerror}); make room or name another"
        ) from None


async def _run(
    images: Iterable[ListedImage],
    folder: Path,
    limits: RequestLimits,
    earlier: dict[str, Outcome],
    record: Callable[[Outcome], None],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    hosts: dict[str, Host] = {}
    queue: asyncio.Queue[ListedImage | None] = asyncio.Queue(maxsize=4 * limits.parallel)
    client = httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=5,
        timeout=limits.timeout_seconds,
        headers={"User-Agent": "skingpt4-data-prepare (research; pictures of a public list)"},
    )

    def finish(outcome: Outcome) -> None:
        counts[outcome.status] += 1
        record(outcome)

    async def worker() -> None:
        while (image := await queue.get()) is not None:
            finish(await _get(client, image, folder, limits, hosts))

    async def fill_queue() -> None:
        queued: set[str] = set()
        for image in images:
            if image.md5 in queued:
                finish(Outcome(image.md5, image.url, "repeated"))
            elif outcome := _without_request(image, folder, earlier.get(image.md5)):
                finish(outcome)
            else:
                queued.add(image.md5)
                await queue.put(image)
        for _ in range(limits.parallel):
            await queue.put(None)

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(limits.parallel):
                group.create_task(worker())
            group.create_task(fill_queue())
    except ExceptionGroup as failures:  # the first is the cause of the others
        raise failures.exceptions[0] from None
    return counts


def _without_request(image: ListedImage, folder: Path, earlier: Outcome | None) -> Outcome | None:
    """The outcome of an image that need not be asked for, or None."""
    if target(folder, image.md5).is_file():
        return Outcome(image.md5, image.url, "present")
    if not image.url:
        return Outcome(image.md5, image.url, "no url")
    is_final = earlier is not None and earlier.status in FINAL and earlier.url == image.url
    return earlier if is_final else None


async def _get(
    client: httpx.AsyncClient, image: ListedImage, folder: Path, limits: RequestLimits, hosts: dict[str, Host]
) -> Outcome:
    """Download one image, with several tries."""
    try:
        host_name = httpx.URL(image.url).host
    except httpx.InvalidURL as error:
        return Outcome(image.md5, image.url, "unreachable", str(error))
    host = hosts.setdefault(host_name, Host(asyncio.Semaphore(limits.per_host)))
    reason = ""
    for attempt in range(limits.tries):
        try:
            async with host.turn(limits.rate), asyncio.timeout(limits.deadline_seconds):
                return await request_image(client, image, folder)
        except _RetryLater as failure:
            reason = str(failure)
            host.pause(min(MAX_WAIT_SECONDS, max(failure.wait_seconds, 2.0**attempt / limits.rate)))
        except TimeoutError:
            reason = f"incomplete after {limits.deadline_seconds:g} seconds"
        except httpx.TimeoutException:
            reason = f"no answer within {limits.timeout_seconds:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{type(error).__name__}: {error}"
    return Outcome(image.md5, image.url, "unreachable", reason)


async def request_image(client: httpx.AsyncClient, image: ListedImage, folder: Path) -> Outcome:
    """Make one request and save what came, if it is the listed picture.

    Raises:
        _RetryLater: the server is busy or broken.
        httpx.HTTPError: no complete answer came.
    """
    part = folder / f".{image.md5}.part"
    digest, size = hashlib.md5(usedforsecurity=False), 0

    def outcome(status: str, detail: str = "") -> Outcome:
        return Outcome(image.md5, image.url, status, detail)

    try:
        async with client.stream("GET", image.url) as response:
            code = response.status_code
            if code == 429 or code >= 500:
                raise _RetryLater(f"HTTP {code}", _seconds(response.headers.get("Retry-After")))
            if code != 200:
                return outcome("gone" if code in (404, 410) else "refused", f"HTTP {code}")
            with part.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > MAX_BYTES:
                        return outcome("too large")
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() == image.md5:
            os.replace(part, target(folder, image.md5))
            return outcome("kept")
        try:
            open_image(part.read_bytes())
        except ImageError as error:
            return outcome("no picture", str(error).partition(": ")[2])
        (folder / CHANGED).mkdir(exist_ok=True)
        os.replace(part, target(folder / CHANGED, image.md5))
        return outcome("changed", f"MD5 {digest.hexdigest()}")
    finally:
        part.unlink(missing_ok=True)


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; a date or anything else counts as 0."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
