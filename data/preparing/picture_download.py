"""Many pictures from the urls of a list: several at a time, politely to each host, checked, and resumable."""

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
from skingpt4.support.errors import UserError

JOURNAL = "downloads.jsonl"
CHANGED = "changed"  # folder of pictures whose bytes are not the ones that were listed
MAX_BYTES = 40_000_000
MAX_WAIT_SECONDS = 60.0  # of what a server may ask for with Retry-After
# What came of a picture; those in FINAL are not asked for again.
STATUSES = {
    "kept": "downloaded, checksum as listed",
    "present": "there already",
    "no url": "no url in the list",
    "repeated": "listed more than once",
    "gone": "the server says that it is gone (404, 410)",
    "refused": "the server refuses (other 4xx)",
    "no picture": "the url gives something that is no picture",
    "changed": f"another picture than was listed; kept in {CHANGED}/ to be looked at",
    "too large": f"more than {MAX_BYTES // 10**6} MB",
    "unreachable": "no whole answer after all tries; run again later",
}
FINAL = ("gone", "refused", "no picture", "changed", "too large")


class DownloadError(UserError):
    """A download that cannot run; the message says what to do."""


@dataclass(frozen=True)
class Wanted:
    """A picture: its MD5 (32 hex digits), which names its file, and its url ('' if the list has none)."""

    md5: str
    url: str


@dataclass(frozen=True)
class Outcome:
    """What came of a picture: one of STATUSES, and the reason in words."""

    md5: str
    url: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Manners:
    """How much is asked of the servers."""

    parallel: int = 8
    per_host: int = 2
    rate: float = 2.0  # requests a second to one host
    tries: int = 3
    timeout_seconds: float = 30.0  # without a byte
    deadline_seconds: float = 180.0  # for one whole picture


@dataclass
class _Host:
    """Whom we ask, how often: at most `per_host` at once, and never two within 1/rate seconds."""

    slots: asyncio.Semaphore
    next_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def turn(self, rate: float) -> AsyncIterator[None]:
        async with self.slots:
            async with self.lock:
                await asyncio.sleep(self.next_at - time.monotonic())
                self.next_at = time.monotonic() + 1 / rate
            yield

    def rest(self, seconds: float) -> None:
        self.next_at = max(self.next_at, time.monotonic() + seconds)


class _Again(Exception):
    """A failure that may pass; asks to wait so many seconds."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


def target(folder: Path, md5: str) -> Path:
    """Where a checked picture stands; SKINCON's annotations name it so too."""
    return folder / f"{md5}.jpg"


def known(folder: Path) -> dict[str, Outcome]:
    """What earlier runs found out, by MD5; the newest word counts, a line that a kill cut off is passed over."""
    found: dict[str, Outcome] = {}
    path = folder / JOURNAL
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[outcome.md5] = outcome
    return found


def run(
    wanted: Iterable[Wanted],
    folder: Path,
    manners: Manners = Manners(),
    ask_again: bool = False,
    seen: Callable[[Outcome], None] = lambda outcome: None,
) -> Counter[str]:
    """Download what is not there yet.

    Args:
        wanted: the pictures; taken one after the other, never all into memory.
        folder: gets `MD5.jpg`, and a journal that a later run goes on from.
        manners: how much is asked of the servers.
        ask_again: ask once more for what an earlier run found to be gone or another picture.
        seen: called with every outcome.

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

            def note(outcome: Outcome) -> None:
                if outcome.status not in ("present", "repeated"):
                    journal.write(json.dumps(asdict(outcome)) + "\n")
                    journal.flush()
                seen(outcome)

            return asyncio.run(_run(wanted, folder, manners, {} if ask_again else known(folder), note))
    except OSError as error:
        raise DownloadError(
            f"{folder}: cannot be written ({error.strerror}); make room or name another"
        ) from None


async def _run(
    wanted: Iterable[Wanted],
    folder: Path,
    manners: Manners,
    before: dict[str, Outcome],
    note: Callable[[Outcome], None],
) -> Counter[str]:
    counts: Counter[str] = Counter()
    hosts: dict[str, _Host] = {}
    queue: asyncio.Queue[Wanted | None] = asyncio.Queue(maxsize=4 * manners.parallel)
    client = httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=5,
        timeout=manners.timeout_seconds,
        headers={"User-Agent": "skingpt4-data-prepare (research; pictures of a public list)"},
    )

    def settle(outcome: Outcome) -> None:
        counts[outcome.status] += 1
        note(outcome)

    async def work() -> None:
        while (item := await queue.get()) is not None:
            settle(await _get(client, item, folder, manners, hosts))

    async def hand_out() -> None:
        taken: set[str] = set()
        for item in wanted:
            earlier = before.get(item.md5)
            if item.md5 in taken:
                settle(Outcome(item.md5, item.url, "repeated"))
            elif target(folder, item.md5).is_file():
                settle(Outcome(item.md5, item.url, "present"))
            elif not item.url:
                settle(Outcome(item.md5, item.url, "no url"))
            elif earlier and earlier.status in FINAL and earlier.url == item.url:
                settle(earlier)
            else:
                taken.add(item.md5)
                await queue.put(item)
        for _ in range(manners.parallel):
            await queue.put(None)

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(manners.parallel):
                group.create_task(work())
            group.create_task(hand_out())
    except ExceptionGroup as failures:  # the first says what is wrong, the others followed
        raise failures.exceptions[0] from None
    return counts


async def _get(
    client: httpx.AsyncClient, item: Wanted, folder: Path, manners: Manners, hosts: dict[str, _Host]
) -> Outcome:
    """One picture, with several tries."""
    try:
        host_name = httpx.URL(item.url).host
    except httpx.InvalidURL as error:
        return Outcome(item.md5, item.url, "unreachable", str(error))
    host = hosts.setdefault(host_name, _Host(asyncio.Semaphore(manners.per_host)))
    reason = ""
    for attempt in range(manners.tries):
        try:
            async with host.turn(manners.rate), asyncio.timeout(manners.deadline_seconds):
                return await _try(client, item, folder)
        except _Again as failure:
            reason = str(failure)
            host.rest(min(MAX_WAIT_SECONDS, max(failure.wait, 2.0**attempt / manners.rate)))
        except TimeoutError:
            reason = f"not whole after {manners.deadline_seconds:g} seconds"
        except httpx.TimeoutException:
            reason = f"no answer within {manners.timeout_seconds:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = f"{type(error).__name__}: {error}"
    return Outcome(item.md5, item.url, "unreachable", reason)


async def _try(client: httpx.AsyncClient, item: Wanted, folder: Path) -> Outcome:
    """One request.

    Raises:
        _Again: the server is busy or broken.
        httpx.HTTPError: no whole answer came.
    """
    part = folder / f".{item.md5}.part"
    digest, size = hashlib.md5(usedforsecurity=False), 0

    def outcome(status: str, detail: str = "") -> Outcome:
        return Outcome(item.md5, item.url, status, detail)

    try:
        async with client.stream("GET", item.url) as answer:
            code = answer.status_code
            if code == 429 or code >= 500:
                raise _Again(f"HTTP {code}", _seconds(answer.headers.get("Retry-After")))
            if code != 200:
                return outcome("gone" if code in (404, 410) else "refused", f"HTTP {code}")
            with part.open("wb") as file:
                async for piece in answer.aiter_bytes():
                    size += len(piece)
                    if size > MAX_BYTES:
                        return outcome("too large")
                    digest.update(piece)
                    file.write(piece)
        if digest.hexdigest() == item.md5:
            os.replace(part, target(folder, item.md5))
            return outcome("kept")
        try:
            open_image(part.read_bytes())
        except ImageError as error:
            return outcome("no picture", str(error).partition(": ")[2])
        (folder / CHANGED).mkdir(exist_ok=True)
        os.replace(part, target(folder / CHANGED, item.md5))
        return outcome("changed", f"MD5 {digest.hexdigest()}")
    finally:
        part.unlink(missing_ok=True)


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; a date or nonsense counts as not given."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
