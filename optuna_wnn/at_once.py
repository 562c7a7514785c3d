"""A trial and all that belongs to it, written by one statement where a database can.

Only PostgreSQL can: there a statement may use what others, written into it, have changed. Each
statement is a wait for the server, and beside other workers these waits are most of what a trial
costs, so a trial is begun by one insertion, and finished without a transaction around it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import sqlalchemy


Row = Mapping[str, Any]
Parts = Mapping[str, Sequence[Row]]  # the rows of each table, without the trial's id

_MOST_VALUES: Final = 20_000  # that one statement binds; PostgreSQL takes up to 65,535
_Shape = tuple[tuple[str, tuple[str, ...], int], ...]  # of each part: table, columns, rows


class AtOnce:
    """Writes trials into the tables of a PostgreSQL database.

    Args:
        engine: The database.
        tables: Optuna's tables.
    """

    def __init__(self, engine: sqlalchemy.Engine, tables: Mapping[str, sqlalchemy.Table]) -> None:
        self._dialect = engine.dialect
        self._tables = tables
        self._adding = functools.lru_cache(maxsize=64)(self._adding_of)
        self._ending = functools.lru_cache(maxsize=64)(self._ending_of)

    @classmethod
    def of(
        cls, engine: sqlalchemy.Engine, tables: Mapping[str, sqlalchemy.Table]
    ) -> AtOnce | None:
        """Return one, or ``None`` where the database cannot do that."""
        return cls(engine, tables) if engine.dialect.name == "postgresql" else None

    @staticmethod
    def takes(parts: Parts) -> bool:
        """Return whether one statement can hold some rows."""
        return (
            sum(len(rows) * (1 + len(rows[0])) for rows in parts.values() if rows) < _MOST_VALUES
        )

    def add(self, connection: sqlalchemy.Connection, trial: Row, parts: Parts) -> int:
        """Add a trial and its parts, and return its id.

        Args:
            connection: What to write through.
            trial: The trial's own row, without its id.
            parts: The rows of other tables.
        """
        statement = self._adding(tuple(trial), _shape(parts))
        return int(connection.execute(statement, {**trial, **_bound(parts)}).scalar_one())

    def end(self, connection: sqlalchemy.Connection, trial: Row, parts: Parts) -> bool:
        """Write how a running trial ended, and its new parts; return whether it still ran.

        Args:
            connection: What to write through.
            trial: ``trial_id``, and the columns of its row that change.
            parts: New rows of other tables.
        """
        statement = self._ending(tuple(trial), _shape(parts))
        found = connection.execute(statement, {**trial, **_bound(parts)})
        return found.scalar_one_or_none() is not None

    def _adding_of(self, columns: tuple[str, ...], shape: _Shape) -> sqlalchemy.TextClause:
        values = ", ".join(self._bind("trials", name, name) for name in columns)
        return self._with_parts(
            f"INSERT INTO trials ({', '.join(columns)}) VALUES ({values})", shape
        )

    def _ending_of(self, columns: tuple[str, ...], shape: _Shape) -> sqlalchemy.TextClause:
        changes = ", ".join(
            f"{name} = {self._bind('trials', name, name)}"
            for name in columns
            if name != "trial_id"
        )
        return self._with_parts(
            f"UPDATE trials SET {changes} WHERE trial_id = :trial_id AND state = 'RUNNING'", shape
        )

    def _with_parts(self, change: str, shape: _Shape) -> sqlalchemy.TextClause:
        """Return a change of one trial, followed by the insertion of its parts."""
        steps = [f"changed AS ({change} RETURNING trial_id)"]
        for table, columns, n in shape:
            rows = ", ".join(
                "({})".format(
                    ", ".join(self._bind(table, name, f"{table}_{name}_{i}") for name in columns)
                )
                for i in range(n)
            )
            names = ", ".join(columns)
            steps.append(
                f"part_{table} AS (INSERT INTO {table} (trial_id, {names}) "
                f"SELECT changed.trial_id, part.* FROM changed, (VALUES {rows}) AS part ({names}))"
            )
        return sqlalchemy.text(f"WITH {', '.join(steps)} SELECT trial_id FROM changed")

    def _bind(self, table: str, column: str, name: str) -> str:
        """Return a bound value with its column's type, which PostgreSQL does not infer here."""
        kind = self._tables[table].c[column].type.compile(self._dialect)
        return f"CAST(:{name} AS {kind})"


def _shape(parts: Parts) -> _Shape:
    return tuple((table, tuple(rows[0]), len(rows)) for table, rows in parts.items() if rows)


def _bound(parts: Parts) -> dict[str, Any]:
    return {
        f"{table}_{name}_{i}": row[name]
        for table, rows in parts.items()
        for i, row in enumerate(rows)
        for name in row
    }
