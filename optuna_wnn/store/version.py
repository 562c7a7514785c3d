"""By which rules a study is stored, and damage told in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from typing import Final
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage

from optuna_wnn.errors import InputError
from optuna_wnn.store.settings import STUDY
from optuna_wnn.store.settings import write_setting


SCHEMA: Final = 1  # goes up when a study that was written before cannot be read any more
_SCHEMA: Final = "schema"


Read = TypeVar("Read", bound=Callable[..., Any])


def reads_storage(read: Read) -> Read:
    """Have a function raise :class:`InputError` where what it reads from a storage is damaged.

    Args:
        read: A function that takes a storage and the name of a run.
    """

    @functools.wraps(read)
    def wrapped(storage: BaseStorage, name: str) -> Any:
        try:
            return read(storage, name)
        except InputError:
            raise
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise InputError(
                f"{name}: what is stored of it is damaged ({reason}); restore the storage from a "
                "copy, or use the optuna-wnn that wrote it"
            ) from error

    return wrapped  # type: ignore[return-value]


def write_schema(study: optuna.Study) -> None:
    """Store by which rules a study is written; to be called before any other setting is."""
    write_setting(study, _SCHEMA, SCHEMA)


def check_schema(study: optuna.Study) -> None:
    """Check that a study is written by the rules that are known here.

    Raises:
        InputError: If an older or a newer version wrote it.
    """
    settings = study._storage.get_study_system_attrs(study._study_id)
    found = settings.get(STUDY + _SCHEMA)
    if found == SCHEMA or not any(key.startswith(STUDY) for key in settings):
        return  # one without settings was killed before it had any
    if isinstance(found, int) and found > SCHEMA:
        raise InputError(
            f"study {study.study_name}: a newer optuna-wnn wrote it (storage schema {found}, this "
            f"one knows {SCHEMA}); run: pip install --upgrade optuna-wnn"
        )
    raise InputError(
        f"study {study.study_name}: an optuna-wnn from before 0.1.0 wrote it, or its attributes "
        "are damaged; choose another --name, or use the version that wrote it"
    )
