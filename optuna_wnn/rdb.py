"""Trials in a relational database, begun and finished by one transaction each.

Optuna's own storage asks the database again for every parameter and attribute: some sixty
statements for a trial of nine parameters, and a fifth of a second where each waits for a
network. What is known together is written together here, into the tables that Optuna made, under
the lock that Optuna takes. Any other process, whatever it writes with, sees an ordinary trial.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial
from optuna.trial import TrialState


# The columns that are written; a database that has others than Optuna 5 made is left to Optuna.
_COLUMNS: Final = {
    "studies": {"study_id", "study_name"},
    "trials": {
        *("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    },
    "trial_params": {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    "trial_values": {"trial_value_id", "trial_id", "objective", "value", "value_type"},
    "trial_user_attributes": {"trial_user_attribute_id", "trial_id", "key", "value_json"},
    "trial_system_attributes": {"trial_system_attribute_id", "trial_id", "key", "value_json"},
}


class TrialWriter:
    """Writes the trials of one database.

    Args:
        engine: The database, which has Optuna's tables.
        tables: Those tables.
    """

    def __init__(self, engine: sqlalchemy.Engine, tables: Mapping[str, sqlalchemy.Table]) -> None:
        self._engine = engine
        self._tables = tables

    @classmethod
    def of(cls, engine: sqlalchemy.Engine) -> TrialWriter | None:
        """Return a writer, or ``None`` where the tables are not those that it knows."""
        try:
            metadata = sqlalchemy.MetaData()
            metadata.reflect(engine, only=list(_COLUMNS))
        except sqlalchemy.exc.SQLAlchemyError:
            return None
        tables = {name: metadata.tables[name] for name in _COLUMNS}
        known = all(_COLUMNS[name] == set(tables[name].columns.keys()) for name in _COLUMNS)
        return cls(engine, tables) if known else None

    def add(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Store a new trial, and return its id and its number.

        Args:
            study_id: Its study.
            trial: Its state, values, parameters and attributes.
        """
        trials, studies = self._tables["trials"], self._tables["studies"]
        lock = sqlalchemy.select(studies.c.study_id).where(studies.c.study_id == study_id)
        with self._engine.begin() as connection:
            connection.execute(lock.with_for_update())
            row = {
                "study_id": study_id,
                "state": trial.state.name,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            made = connection.execute(trials.insert().values(row)).inserted_primary_key
            assert made is not None
            trial_id = int(made[0])
            before = (
                sqlalchemy.select(trials.c.number)
                .where(trials.c.study_id == study_id, trials.c.trial_id < trial_id)
                .order_by(trials.c.trial_id.desc())
                .limit(1)
            )
            last = connection.execute(before).scalar()
            number = 0 if last is None else int(last) + 1
            connection.execute(
                trials.update().where(trials.c.trial_id == trial_id).values(number=number)
            )
            if trial.params:
                rows = [
                    {
                        "trial_id": trial_id,
                        "param_name": name,
                        "param_value": distribution.to_internal_repr(trial.params[name]),
                        "distribution_json": distribution_to_json(distribution),
                    }
                    for name, distribution in trial.distributions.items()
                ]
                connection.execute(self._tables["trial_params"].insert(), rows)
            self._values(connection, trial_id, trial.values)
            self._attributes(connection, "trial_user_attributes", trial_id, trial.user_attrs)
            self._attributes(connection, "trial_system_attributes", trial_id, trial.system_attrs)
        return trial_id, number

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        system_attributes: Mapping[str, Any],
    ) -> bool:
        """Store what a running trial came to; return whether it was still running.

        Args:
            trial_id: The trial.
            state: How it ended.
            values: Its values, where it is complete.
            system_attributes: Attributes that it did not have before.
        """
        trials = self._tables["trials"]
        running = trials.update().where(
            trials.c.trial_id == trial_id, trials.c.state == TrialState.RUNNING.name
        )
        with self._engine.begin() as connection:
            ended = running.values(
                state=state.name, datetime_complete=_utc(datetime.datetime.now())
            )
            if connection.execute(ended).rowcount == 0:
                return False
            self._values(connection, trial_id, values)
            self._attributes(connection, "trial_system_attributes", trial_id, system_attributes)
        return True

    def _values(
        self, connection: sqlalchemy.Connection, trial_id: int, values: Sequence[float] | None
    ) -> None:
        rows = [
            {
                "trial_id": trial_id,
                "objective": objective,
                "value": float(value) if math.isfinite(value) else None,
                "value_type": _kind(value),
            }
            for objective, value in enumerate(values or ())
        ]
        if rows:
            connection.execute(self._tables["trial_values"].insert(), rows)

    def _attributes(
        self,
        connection: sqlalchemy.Connection,
        table: str,
        trial_id: int,
        attributes: Mapping[str, Any],
    ) -> None:
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in attributes.items()
        ]
        if rows:
            connection.execute(self._tables[table].insert(), rows)


def _utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time as Optuna's tables have it."""
    return local and local.astimezone(datetime.timezone.utc).replace(tzinfo=None)


def _kind(value: float) -> str:
    """Return how Optuna's tables name the kind of a value; infinite ones are not stored."""
    if math.isfinite(value):
        return "FINITE"
    return "INF_POS" if value > 0 else "INF_NEG"
