"""The tables of storages that are relational databases."""

from __future__ import annotations

import weakref

from optuna.storages import BaseStorage
from optuna.storages import RDBStorage

from optuna_wnn.rdb import TrialTables


def tables_of(storage: BaseStorage) -> TrialTables | None:
    """Return the tables of a relational database; ``None`` for other storages."""
    backend = getattr(storage, "_backend", storage)
    if not isinstance(backend, RDBStorage):
        return None
    if storage not in _TABLES:
        _TABLES[storage] = TrialTables.of(backend.engine)
    return _TABLES[storage]


_TABLES: weakref.WeakKeyDictionary[BaseStorage, TrialTables | None] = weakref.WeakKeyDictionary()
