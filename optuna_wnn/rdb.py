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
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from optuna_wnn.at_once import AtOnce
from optuna_wnn.at_once import Parts


# The columns that are written; a database that has others than Optuna 5 made is left to Optuna.
_COLUMNS: Final = {
    "studies": {"study_id", "study_name"},
    "study_system_attributes": {"study_system_attribute_id", "study_id", "key", "value_json"},
    "trials": {
        *("trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"),
    },
    "trial_params": {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    "trial_values": {"trial_value_id", "trial_id", "objective", "value", "value_type"},
    "trial_user_attributes": {"trial_user_attribute_id", "trial_id", "key", "value_json"},
    "trial_system_attributes": {"trial_system_attribute_id", "trial_id", "key", "value_json"},
}
_MOST_NAMED: Final = 256  # trials that one statement names
_MOST_ROWS: Final = 128  # rows that one statement adds; SQLite may bind as few as 999 values

# Says of the system attributes of the trials that others began meanwhile whether the new one
# gives way to them.
Yields = Callable[[Sequence[Mapping[str, Any]]], bool]


class TrialTables:
    """The trials of one database.

    Statements are made once and used again: for SQLAlchemy to make one costs more than for the
    database to answer it.

    Args:
        engine: The database, which has Optuna's tables.
        tables: Those tables.
    """

    def __init__(self, engine: sqlalchemy.Engine, tables: Mapping[str, sqlalchemy.Table]) -> None:
        self._engine = engine
        self._reading = _without_transactions(engine)
        self._tables = tables
        self._at_once = AtOnce.of(engine, tables)
        trials, studies = tables["trials"], tables["studies"]
        own = trials.c.study_id == _STUDY
        locked = sqlalchemy.select(studies.c.study_id).where(studies.c.study_id == _STUDY)
        self._lock_study = locked.with_for_update()
        self._last = (
            sqlalchemy.select(trials.c.trial_id, trials.c.number)
            .where(own)
            .order_by(trials.c.trial_id.desc())
            .limit(1)
        )
        keys: sqlalchemy.BindParameter[Sequence[str]] = sqlalchemy.bindparam(
            "keys", expanding=True
        )
        attributes = tables["trial_system_attributes"]
        wanted = sqlalchemy.and_(
            attributes.c.trial_id == trials.c.trial_id, attributes.c.key.in_(keys)
        )
        self._since = (
            sqlalchemy.select(
                trials.c.trial_id, trials.c.number, attributes.c.key, attributes.c.value_json
            )
            .select_from(trials.outerjoin(attributes, wanted))
            .where(own, trials.c.trial_id >= _KNOWN)
        )
        of_study = tables["study_system_attributes"]
        self._settings = sqlalchemy.select(of_study.c.key, of_study.c.value_json).where(
            of_study.c.study_id == _STUDY,
            of_study.c.key.startswith(sqlalchemy.bindparam("prefix")),
        )
        self._end = (
            trials.update()
            .where(
                trials.c.trial_id == sqlalchemy.bindparam("trial"),
                trials.c.state == TrialState.RUNNING.name,
            )
            .values(
                state=sqlalchemy.bindparam("ended"), datetime_complete=sqlalchemy.bindparam("now")
            )
        )
        # By how many trials they name, or how many rows they add.
        self._changed = functools.lru_cache(maxsize=64)(self._changed_of)
        self._contents = functools.lru_cache(maxsize=16)(self._contents_of)
        self._insertion = functools.lru_cache(maxsize=256)(self._insertion_of)

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
        self,
        study_id: int,
        trial: FrozenTrial,
        known: int = -1,
        keys: Sequence[str] = (),
        yields: Yields | None = None,
    ) -> tuple[int, int] | None:
        """Store a new trial, unless it gives way to others, and return its id and its number.

        Trials are added one after the other, so of two that would have the same place, the
        second always sees the first.

        Args:
            study_id: Its study.
            trial: Its state, values, parameters and attributes.
            known: The highest id of a trial of the study that is known.
            keys: The system attributes that tell whether it gives way.
            yields: Whether it gives way to trials of higher ids.
        """
        with self._engine.begin() as connection:
            self._lock(connection, study_id)
            last = None
            if yields is not None:
                others, last = self._others(connection, study_id, known, keys)
                if yields(others):
                    connection.rollback()
                    return None
            if last is None:
                last = connection.execute(self._last, {"study": study_id}).first()
            number = 0 if last is None else int(last.number) + 1
            row = {
                "study_id": study_id,
                "number": number,
                "state": trial.state.name,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            parts = {
                "trial_params": _parameters(trial),
                "trial_values": _values(trial.values),
                "trial_user_attributes": _attributes(trial.user_attrs),
                "trial_system_attributes": _attributes(trial.system_attrs),
            }
            if self._at_once is not None and self._at_once.takes(parts):
                return self._at_once.add(connection, row, parts), number
            made = connection.execute(self._tables["trials"].insert(), row).inserted_primary_key
            assert made is not None
            self._insert(connection, int(made[0]), parts)
        return int(made[0]), number

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
        now = _utc(datetime.datetime.now())
        parts = {
            "trial_values": _values(values),
            "trial_system_attributes": _attributes(system_attributes),
        }
        if self._at_once is not None and self._at_once.takes(parts):
            row = {"trial_id": trial_id, "state": state.name, "datetime_complete": now}
            with self._reading.connect() as connection:
                return self._at_once.end(connection, row, parts)
        with self._engine.begin() as connection:
            ended = {"trial": trial_id, "ended": state.name, "now": now}
            if connection.execute(self._end, ended).rowcount == 0:
                return False
            self._insert(connection, trial_id, parts)
        return True

    def news(
        self, study_id: int, known: int, unfinished: Mapping[int, TrialState]
    ) -> Iterator[FrozenTrial]:
        """Yield the trials that are new or in another state, in the order of their numbers.

        Their parameters and user attributes are not read: who runs a study has no use for them.

        Args:
            study_id: The study.
            known: The highest id of a trial that is known.
            unfinished: The states that unfinished trials had, by id.
        """
        running = [i for i, state in unfinished.items() if state == TrialState.RUNNING]
        waiting = [i for i, state in unfinished.items() if state != TrialState.RUNNING]
        most = max(len(running), len(waiting), 1)
        with self._reading.connect() as connection:
            rows: dict[int, Any] = {}
            for start in range(0, most, _MOST_NAMED):
                ids = [named[start : start + _MOST_NAMED] for named in (running, waiting)]
                names = {**_named("running", ids[0]), **_named("waiting", ids[1])}
                changed = self._changed(_padded(len(ids[0])), _padded(len(ids[1])))
                names |= {"study": study_id, "known": known}
                rows |= {row.trial_id: row for row in connection.execute(changed, names)}
            new = sorted(rows.values(), key=lambda row: int(row.number))
            for start in range(0, len(new), _MOST_NAMED):
                yield from self._read(connection, new[start : start + _MOST_NAMED])

    def study_attributes(self, study_id: int, prefix: str) -> dict[str, Any]:
        """Return the system attributes of a study whose keys begin alike.

        Args:
            study_id: The study.
            prefix: What they begin with, without ``%`` and ``_``.
        """
        with self._reading.connect() as connection:
            rows = connection.execute(self._settings, {"study": study_id, "prefix": prefix})
            return {row.key: json.loads(row.value_json) for row in rows}

    def _read(
        self, connection: sqlalchemy.Connection, rows: Sequence[Any]
    ) -> Iterator[FrozenTrial]:
        """Yield the trials of some rows."""
        attributes: dict[int, dict[str, Any]] = {row.trial_id: {} for row in rows}
        values: dict[int, dict[int, float]] = {}
        contents = self._contents(_padded(len(rows)))
        for row in connection.execute(contents, _named("trial", list(attributes))):
            if row.objective is None:
                attributes[row.trial_id][row.key] = json.loads(row.value_json)
            else:
                value = row.value if row.value_type == "FINITE" else _INFINITE[row.value_type]
                values.setdefault(row.trial_id, {})[row.objective] = value
        for row in rows:
            objectives = values.get(row.trial_id)
            yield FrozenTrial(
                number=row.number,
                state=TrialState[row.state],
                value=None,
                values=None if objectives is None else [v for _, v in sorted(objectives.items())],
                datetime_start=_local(row.datetime_start),
                datetime_complete=_local(row.datetime_complete),
                params={},
                distributions={},
                user_attrs={},
                system_attrs=attributes[row.trial_id],
                intermediate_values={},
                trial_id=row.trial_id,
            )

    def _lock(self, connection: sqlalchemy.Connection, study_id: int) -> None:
        """Have others wait that would add trials to a study, as Optuna does."""
        if self._engine.dialect.name == "sqlite":  # it has one lock for all, and one that reads
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # first may be refused it later
        else:
            connection.execute(self._lock_study, {"study": study_id})

    def _others(
        self, connection: sqlalchemy.Connection, study_id: int, known: int, keys: Sequence[str]
    ) -> tuple[list[dict[str, Any]], Any]:
        """Return attributes of the trials above an id, and the row of the last trial."""
        since = {"study": study_id, "known": known, "keys": list(keys)}
        found: dict[int, dict[str, Any]] = {}
        last = None
        for row in connection.execute(self._since, since):
            if last is None or row.trial_id > last.trial_id:
                last = row
            if row.trial_id > known:
                own = found.setdefault(row.trial_id, {})
                if row.key is not None:
                    own[row.key] = json.loads(row.value_json)
        return list(found.values()), last

    # -- statements --

    def _changed_of(self, n_running: int, n_waiting: int) -> sqlalchemy.Select[Any]:
        """Return what finds the trials that are new or in another state."""
        trials = self._tables["trials"]
        times = "datetime_start", "datetime_complete"
        columns = [trials.c[name] for name in ("trial_id", "number", "state", *times)]
        found = [sqlalchemy.and_(trials.c.study_id == _STUDY, trials.c.trial_id > _KNOWN)]
        for name, n, state in (
            ("running", n_running, TrialState.RUNNING),
            ("waiting", n_waiting, TrialState.WAITING),
        ):
            if n:
                is_named = trials.c.trial_id.in_(_binds(name, n))
                found.append(sqlalchemy.and_(is_named, trials.c.state != state.name))
        return sqlalchemy.select(*columns).where(sqlalchemy.or_(*found))

    def _contents_of(self, n_trials: int) -> sqlalchemy.CompoundSelect[Any]:
        """Return what reads the system attributes and values of some trials."""
        attributes, values = self._tables["trial_system_attributes"], self._tables["trial_values"]
        named = _binds("trial", n_trials)
        texts, numbers = (attributes.c.key, attributes.c.value_json), _columns(values)
        return sqlalchemy.union_all(
            sqlalchemy.select(
                attributes.c.trial_id, *texts, *(_null(column) for column in numbers)
            ).where(attributes.c.trial_id.in_(named)),
            sqlalchemy.select(
                values.c.trial_id, *(_null(column) for column in texts), *numbers
            ).where(values.c.trial_id.in_(named)),
        )

    def _insertion_of(self, table: str, names: tuple[str, ...], n: int) -> sqlalchemy.TextClause:
        """Return what adds some rows: one statement, where SQLAlchemy takes one for each."""
        quote = self._engine.dialect.identifier_preparer.quote
        rows = (", ".join(f":{name}_{i}" for name in names) for i in range(n))
        columns = ", ".join(map(quote, names))
        return sqlalchemy.text(
            f"INSERT INTO {quote(table)} ({columns}) VALUES {', '.join(f'({r})' for r in rows)}"
        )

    def _insert(self, connection: sqlalchemy.Connection, trial_id: int, parts: Parts) -> None:
        """Add what belongs to a trial."""
        for table, rows in parts.items():
            for start in range(0, len(rows), _MOST_ROWS):
                some = [{"trial_id": trial_id, **row} for row in rows[start : start + _MOST_ROWS]]
                statement = self._insertion(table, tuple(some[0]), len(some))
                bound = {f"{name}_{i}": row[name] for i, row in enumerate(some) for name in row}
                connection.execute(statement, bound)


_STUDY: Final = sqlalchemy.bindparam("study", type_=sqlalchemy.Integer)
_KNOWN: Final = sqlalchemy.bindparam("known", type_=sqlalchemy.Integer)


def _without_transactions(engine: sqlalchemy.Engine) -> sqlalchemy.Engine:
    """Return the engine with each statement for itself, where that saves waits for a server.

    By default PostgreSQL lets a transaction see what others commit meanwhile, so nothing that is
    read changes by it.
    """
    if engine.dialect.name != "postgresql":  # elsewhere a transaction begins by itself
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _columns(values: sqlalchemy.Table) -> tuple[sqlalchemy.Column[Any], ...]:
    return values.c.objective, values.c.value, values.c.value_type


def _null(column: sqlalchemy.Column[Any]) -> sqlalchemy.ColumnElement[Any]:
    return sqlalchemy.type_coerce(sqlalchemy.null(), column.type).label(column.name)


def _padded(n: int) -> int:
    """Return the next power of two, so that there are few statements."""
    return 1 << (n - 1).bit_length() if n else 0


def _binds(name: str, n: int) -> list[sqlalchemy.BindParameter[int]]:
    return [sqlalchemy.bindparam(f"{name}_{i}", type_=sqlalchemy.Integer) for i in range(n)]


def _named(name: str, ids: Sequence[int]) -> dict[str, int]:
    """Return the values of :func:`_binds`; what pads them is an id that no trial has."""
    padded = [*ids, *[-1] * (_padded(len(ids)) - len(ids))]
    return {f"{name}_{i}": own for i, own in enumerate(padded)}


def _parameters(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return the rows of a trial's parameters."""
    return [
        {
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": _json_of(distribution),
        }
        for name, distribution in trial.distributions.items()
    ]


def _values(values: Sequence[float] | None) -> list[dict[str, Any]]:
    """Return the rows of a trial's values."""
    return [
        {
            "objective": objective,
            "value": float(value) if math.isfinite(value) else None,
            "value_type": _kind(value),
        }
        for objective, value in enumerate(values or ())
    ]


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of a trial's attributes."""
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


_INFINITE: Final = {"INF_POS": math.inf, "INF_NEG": -math.inf}


@functools.lru_cache(maxsize=1024)
def _json_of(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time as Optuna's tables have it."""
    return local and local.astimezone(datetime.timezone.utc).replace(tzinfo=None)


def _local(utc: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time of Optuna's tables as its trials have it."""
    return utc and utc.replace(tzinfo=datetime.timezone.utc).astimezone().replace(tzinfo=None)


def _kind(value: float) -> str:
    """Return how Optuna's tables name the kind of a value; infinite ones are not stored."""
    if math.isfinite(value):
        return "FINITE"
    return "INF_POS" if value > 0 else "INF_NEG"
