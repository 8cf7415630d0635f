"""The processes of a run and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object, reduce

from skingpt4.support.errors import UserError

T = TypeVar("T")

# Features of a large manifest take hours; collectives of a training step still end after torch's own minutes.
PATIENCE = timedelta(days=7)
# EX_TEMPFAIL, an exit status for schedulers: saved or in use, --resume continues (docs/slurm.md).
TRY_AGAIN = 75


class RunError(UserError):
    """A run that cannot start or continue; the message says what to do."""


@dataclass
class Team:
    """The processes of a run. Every method is called by all of them at the same place; one alone needs no others."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None  # until all have arrived, however long that takes
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, accelerator: Any) -> Team:
        """The processes of an `Accelerator` or `PartialState`, which wait outside of its collectives' time-out."""
        if accelerator.num_processes == 1:
            return cls(device=accelerator.device)
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

        def wait() -> None:
            torch.distributed.barrier(group=group)

        return cls(accelerator.process_index, accelerator.num_processes, wait, accelerator.device)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which alone writes files."""
        return self.rank == 0

    def by_first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process; its result, or its failure, is that of all.

        Raises:
            UserError, OSError: of the work.
        """
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except (UserError, OSError) as error:
                outcome[1] = error
        self.wait()
        result, failure = broadcast_object_list(outcome)
        if failure is not None:
            raise failure
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        return bool(reduce(torch.tensor(float(flag), device=self.device), "sum").item())

    def together(self, items: Iterator[T]) -> Iterator[T]:
        """The items, of which all processes have the same number; where one process fails to get its next, all fail.

        Raises:
            UserError, OSError: of `items`, or because another process failed.
        """
        failure: Exception | None = None
        while True:
            item = None
            try:
                item = next(items)
            except StopIteration:
                return
            except (UserError, OSError) as error:
                failure = error
            others_too = self.any(failure is not None)
            if failure is not None:
                raise failure
            if others_too:
                raise RunError("another process of this run failed; its message says why")
            yield item  # type: ignore[misc]

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Compare what all processes must have in common.

        Raises:
            RunError: names what differs, and in which process.
        """
        if self.world == 1:
            return
        self.wait()
        first, *others = gather_object([dict(facts)])
        for rank, other in enumerate(others, 1):
            names = [name for name, value in first.items() if other.get(name) != value]
            if names:
                raise RunError(
                    f"process {rank} of {self.world} differs from the first in its {', '.join(names)}; start all of "
                    "them with the same arguments, files and versions"
                )
