"""Trials of a sweep: who runs which configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Final

from optuna_wnn.errors import InputError


_CLAIM: Final = "wnn:claim"


@dataclass(frozen=True)
class Claim:
    """What a trial of a sweep is: a worker runs one configuration.

    Attributes:
        place: The configuration's number within the sweep.
        overrides: What it overrides, by dotted keys.
        worker: The process that runs it; see :mod:`optuna_wnn.workers`.
    """

    place: int
    overrides: Mapping[str, Any]
    worker: str


def claim_attributes(claim: Claim) -> dict[str, str]:
    """Return the system attributes that hold a claim, for ``create_trial``."""
    return {_CLAIM: json.dumps([claim.place, claim.overrides, claim.worker])}


def read_claim(attributes: Mapping[str, Any]) -> Claim | None:
    """Return the claim in a trial's system attributes, or ``None``."""
    text = attributes.get(_CLAIM)
    try:
        return None if text is None else Claim(*json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a trial's stored claim is damaged ({error}); restore the storage from a copy"
        ) from error
