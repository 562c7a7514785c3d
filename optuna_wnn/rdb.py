"""Trials in a relational database: begun, finished and read by a few statements each.

Optuna's own storage asks the database again for every parameter and attribute: some sixty
statements for a trial of nine parameters, and a fifth of a second where each waits for a
network. What is known together is written together here, into the tables that Optuna made, under
the lock that Optuna takes. Any other process, whatever it writes with, sees an ordinary trial.
And of what other processes wrote, only what is new is read.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.distributions import distribution_to_json
from optuna.distributions import json_to_distribution
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


_READ: Final = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
_MOST_NAMED: Final = 500  # trials that one statement names

# Says of the system attributes of the trials that others began meanwhile whether the new one
# gives way to them.
Yields = Callable[[Sequence[Mapping[str, Any]]], bool]


class TrialTables:
    """The trials of one database.

    Args:
        engine: The database, which has Optuna's tables.
        tables: Those tables.
    """

    def __init__(self, engine: sqlalchemy.Engine, tables: Mapping[str, sqlalchemy.Table]) -> None:
        self._engine = engine
        self._tables = tables

    @classmethod
    def of(cls, engine: sqlalchemy.Engine) -> TrialTables | None:
        """Return them, or ``None`` where the tables are not those that are known."""
        try:
            metadata = sqlalchemy.MetaData()
            metadata.reflect(engine, only=list(_COLUMNS))
        except sqlalchemy.exc.SQLAlchemyError:
            return None
        tables = {name: metadata.tables[name] for name in _COLUMNS}
        for table in tables.values():
            for column in table.columns:  # MySQL's doubles would come as decimals of ten digits
                if isinstance(column.type, sqlalchemy.Numeric | sqlalchemy.Float):
                    column.type = sqlalchemy.Double(asdecimal=False)
        known = all(_COLUMNS[name] == set(tables[name].columns.keys()) for name in _COLUMNS)
        return cls(engine, tables) if known else None

    def add(
        self, study_id: int, trial: FrozenTrial, known: int = -1, yields: Yields | None = None
    ) -> tuple[int, int] | None:
        """Store a new trial, unless it gives way to others, and return its id and its number.

        Trials are added one after the other, so of two that would have the same place, the
        second always sees the first.

        Args:
            study_id: Its study.
            trial: Its state, values, parameters and attributes.
            known: The highest id of a trial of the study that is known.
            yields: Whether it gives way to trials of higher ids.
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
                sqlalchemy.select(trials.c.trial_id, trials.c.number)
                .where(trials.c.study_id == study_id, trials.c.trial_id < trial_id)
                .order_by(trials.c.trial_id.desc())
                .limit(1)
            )
            last = connection.execute(before).first()
            if yields is not None and last is not None and last.trial_id > known:
                new = sqlalchemy.and_(
                    trials.c.study_id == study_id,
                    trials.c.trial_id > known,
                    trials.c.trial_id < trial_id,
                )
                if yields(list(self._json(connection, "trial_system_attributes", new).values())):
                    connection.rollback()
                    return None
            number = 0 if last is None else int(last.number) + 1
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

    def news(
        self, study_id: int, known: int, running: Mapping[int, TrialState]
    ) -> list[FrozenTrial]:
        """Return the trials that are new or in another state, in the order of their numbers.

        Args:
            study_id: The study.
            known: The highest id of a trial that is known.
            running: The states that unfinished trials had, by id.
        """
        trials = self._tables["trials"]
        columns = [trials.c[name] for name in _READ]
        is_new = sqlalchemy.and_(trials.c.study_id == study_id, trials.c.trial_id > known)
        wanted = sqlalchemy.or_(is_new, trials.c.trial_id.in_(sorted(running)))
        with self._engine.connect() as connection:
            rows = [
                row
                for row in connection.execute(sqlalchemy.select(*columns).where(wanted))
                if row.trial_id not in running or row.state != running[row.trial_id].name
            ]
            found: list[FrozenTrial] = []
            for start in range(0, len(rows), _MOST_NAMED):
                found += self._read(connection, rows[start : start + _MOST_NAMED])
        return sorted(found, key=lambda trial: trial.number)

    def _read(
        self, connection: sqlalchemy.Connection, rows: Sequence[Any]
    ) -> Iterator[FrozenTrial]:
        """Yield the trials of some rows; user attributes are not read."""
        trials, parameters = self._tables["trials"], self._tables["trial_params"]
        named = trials.c.trial_id.in_([row.trial_id for row in rows])
        attributes = self._json(connection, "trial_system_attributes", named)
        values: dict[int, dict[int, float]] = {}
        params: dict[int, dict[str, tuple[Any, BaseDistribution]]] = {}
        finished = [row.trial_id for row in rows if TrialState[row.state].is_finished()]
        if finished:
            table = self._tables["trial_values"]
            for row in connection.execute(table.select().where(table.c.trial_id.in_(finished))):
                value = row.value if row.value_type == "FINITE" else _INFINITE[row.value_type]
                values.setdefault(row.trial_id, {})[row.objective] = value
            wanted = parameters.select().where(parameters.c.trial_id.in_(finished))
            for row in connection.execute(wanted):
                distribution = _distribution(row.distribution_json)
                value = distribution.to_external_repr(row.param_value)
                params.setdefault(row.trial_id, {})[row.param_name] = value, distribution
        for row in rows:
            own = params.get(row.trial_id, {})
            objectives = values.get(row.trial_id)
            yield FrozenTrial(
                number=row.number,
                state=TrialState[row.state],
                value=None,
                values=None if objectives is None else [v for _, v in sorted(objectives.items())],
                datetime_start=row.datetime_start,
                datetime_complete=row.datetime_complete,
                params={name: value for name, (value, _) in own.items()},
                distributions={name: distribution for name, (_, distribution) in own.items()},
                user_attrs={},
                system_attrs=attributes.get(row.trial_id, {}),
                intermediate_values={},
                trial_id=row.trial_id,
            )

    def _json(
        self, connection: sqlalchemy.Connection, table: str, which: Any
    ) -> dict[int, dict[str, Any]]:
        """Return the attributes of the trials that a condition names, by id."""
        trials, own = self._tables["trials"], self._tables[table]
        joined = trials.join(own, own.c.trial_id == trials.c.trial_id)
        query = sqlalchemy.select(trials.c.trial_id, own.c.key, own.c.value_json)
        found: dict[int, dict[str, Any]] = {}
        for row in connection.execute(query.select_from(joined).where(which)):
            found.setdefault(row.trial_id, {})[row.key] = json.loads(row.value_json)
        return found

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


_INFINITE: Final = {"INF_POS": math.inf, "INF_NEG": -math.inf}


@functools.lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time as Optuna's tables have it."""
    return local and local.astimezone(datetime.timezone.utc).replace(tzinfo=None)


def _kind(value: float) -> str:
    """Return how Optuna's tables name the kind of a value; infinite ones are not stored."""
    if math.isfinite(value):
        return "FINITE"
    return "INF_POS" if value > 0 else "INF_NEG"
