"""The place of a trial in its study's history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Final

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import Trial

from optuna_wnn.errors import InputError
from optuna_wnn.store.attributes import write_attribute


CHILD: Final = "wnn:child"


@dataclass(frozen=True, slots=True)
class Child:
    """The place of a trial in its study's history.

    Attributes:
        generation: Its generation, or its iteration of a tabu search; 0 for seeds.
        index: Its place there; a place is given out once.
        parents: Numbers of the trials that it descends from.
        handle: Handle of the genome that it was given, before any refinement; -1 without one.
        source: Which of a tabu search's sources it is a neighbour of.
        attribute: What a tabu list remembers of the move that made it.
        reverse: The attribute of the move that would undo that.
        is_seed: Whether it was put there with its result, and not evaluated here.
        worker: The process that evaluates it; see :mod:`optuna_wnn.workers`.
    """

    generation: int
    index: int
    parents: tuple[int, ...] = ()
    handle: int = -1
    source: int = 0
    attribute: tuple[Any, ...] | None = None
    reverse: tuple[Any, ...] | None = None
    is_seed: bool = False
    worker: str = ""

    def to_json(self) -> str:
        """Return the child as JSON text without its defaults."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        default = Child(self.generation, self.index)
        kept = {
            name: value
            for name, value in fields.items()
            if name in ("generation", "index") or value != getattr(default, name)
        }
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Child:
        """Return the inverse of :meth:`to_json`.

        Raises:
            InputError: If the text is no child.
        """
        try:
            fields = json.loads(text)
            for name in ("parents", "attribute", "reverse"):
                if fields.get(name) is not None:
                    fields[name] = tuple(fields[name])
            return cls(**fields)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"a trial's stored place is damaged, or of another version ({error}); use the "
                "optuna-wnn that wrote it"
            ) from error


def write_child(study: optuna.Study, trial: Trial | FrozenTrial, child: Child) -> None:
    """Store the place of a running trial in its study's history."""
    write_attribute(study._storage, trial, CHILD, child.to_json())


def read_child(attributes: Mapping[str, Any]) -> Child | None:
    """Return the place that a trial's system attributes tell, or ``None``."""
    text = attributes.get(CHILD)
    return None if text is None else Child.from_json(text)


def child_of(trial: FrozenTrial) -> Child:
    """Return the place of a trial that :class:`Trials` began."""
    return Child.from_json(trial.system_attrs[CHILD])


def child_attributes(child: Child) -> dict[str, str]:
    """Return the system attributes that hold a child's place, for ``create_trial``."""
    return {CHILD: child.to_json()}
