"""The workers of one study: who else is at work, who is gone, and which place each takes next."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import optuna

from optuna_wnn import store
from optuna_wnn.workers import is_gone
from optuna_wnn.workers import this_worker


SILENCE: Final = (
    60.0  # seconds without a sign of life after which a worker of another host is gone
)
BEAT: Final = 15.0  # seconds between signs of life during a long evaluation

Place = tuple[int, int]  # generation and index


class Crew:
    """This worker among those of a study.

    A worker has one attribute of the study, which it alone writes: its last sign of life, with
    the place that it is about to take. Storages have no locks in common, but this is enough
    to take places apart: who writes its claim first and looks at the others' then is seen by
    whoever looks later. Clocks of several hosts are never compared: silence is measured here,
    from when a sign was first seen.

    Args:
        study: The study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._me = this_worker()
        self._claim: tuple[int, ...] = ()
        self._seen: dict[str, tuple[tuple[int, ...], float]] = {}  # sign, and since when
        self._gone: set[str] = set()
        self._lock = threading.Lock()

    def join(self) -> None:
        """Say that this worker is there, and see who else is."""
        self._sign()
        self.look()

    def leave(self) -> None:
        """Say that this worker leaves the study."""
        with self._lock:
            store.write_worker(self._study, self._me, ())

    def claim(self, place: Place) -> None:
        """Say which place this worker is about to take."""
        self._sign(place)

    def look(self) -> None:
        """Read the others' signs of life."""
        now = time.monotonic()
        for worker, sign in store.read_workers(self._study).items():
            if worker != self._me and self._seen.get(worker, ((-1,), 0.0))[0] != sign:
                self._seen[worker] = sign, now

    def others(self) -> dict[str, Place | None]:
        """Return the others that were at work at the last look, and which places they claim."""
        at_work = (name for name, (sign, _) in self._seen.items() if sign)
        return {name: self._claim_of(name) for name in at_work if not self.is_gone(name)}

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

    def _sign(self, place: Place | None = None) -> None:
        with self._lock:  # a beat must not bring an old claim back
            if place is not None:
                self._claim = place
            store.write_worker(self._study, self._me, (time.monotonic_ns(), *self._claim))

    def _claim_of(self, worker: str) -> Place | None:
        _, *place = self._seen[worker][0]
        return (place[0], place[1]) if place else None
