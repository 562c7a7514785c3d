"""The workers of one study: who else is at work, and who is gone."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Final

import optuna

from optuna_wnn.store.settings import read_workers
from optuna_wnn.store.settings import write_worker
from optuna_wnn.workers import is_gone
from optuna_wnn.workers import this_worker


SILENCE: Final = (
    60.0  # seconds without a sign of life after which a worker of another host is gone
)
BEAT: Final = 15.0  # seconds between signs of life during a long evaluation
PAUSE: Final = 2.0  # seconds between two looks at the others, where they are few
_FEW: Final = 16

Place = tuple[int, int]  # generation and index


class Crew:
    """This worker among those of a study.

    A worker has one attribute of the study, which it alone writes: its last sign of life. Clocks
    of several hosts are never compared: silence is measured here, from when a sign was first
    seen.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._me = this_worker()
        self._seen: dict[str, tuple[tuple[int, ...], float]] = {}  # sign, and since when
        self._gone: set[str] = set()
        self._others: list[str] = []
        self._looked = -math.inf

    def join(self) -> None:
        """Say that this worker is there, and see who else is."""
        self._sign()
        self.look()

    def leave(self) -> None:
        """Say that this worker leaves the study."""
        write_worker(self._study, self._me, ())

    def look(self, at_once: bool = True) -> bool:
        """Read the others' signs of life, or do so if the last look is some time ago.

        Returns:
            Whether they were read.
        """
        now = time.monotonic()
        # A look at many costs more, and more look.
        pause = PAUSE * (1 + len(self._others) / _FEW)
        if not at_once and now - self._looked < pause:
            return False
        self._looked = now
        for worker, sign in read_workers(self._study).items():
            if worker != self._me and self._seen.get(worker, ((-1,), 0.0))[0] != sign:
                self._seen[worker] = sign, now
        at_work = (name for name, (sign, _) in self._seen.items() if sign)
        self._others = sorted(name for name in at_work if not self.is_gone(name))
        return True

    def others(self) -> list[str]:
        """Return the others that were at work at the last look."""
        return self._others

    def rank(self) -> int:
        """Return how many of the others come before this worker; each has another rank."""
        return sum(name < self._me for name in self._others)

    def is_gone(self, worker: str) -> bool:
        """Return whether a worker left or died; that of another host after some silence."""
        if worker == self._me or worker in self._gone:
            return worker in self._gone
        sign, since = self._seen.get(worker, ((-1,), time.monotonic()))
        if is_gone(worker):
            self._gone.add(worker)  # its name will not come again
        return not sign or worker in self._gone or time.monotonic() - since > SILENCE

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Join, give signs of life as long as the block lasts, and leave."""
        self.join()
        done = threading.Event()
        thread = threading.Thread(target=self._beat, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(Exception):  # what ended the block says more
                self.leave()

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(BEAT):
            with contextlib.suppress(Exception):  # the next one may come through
                self._sign()

    def _sign(self) -> None:
        write_worker(self._study, self._me, [time.monotonic_ns()])
