"""The genome of one trial, stored with it and read again."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from optuna.trial import Trial

from optuna_wnn.errors import InputError
from optuna_wnn.genome import Genome
from optuna_wnn.store.attributes import system_attributes
from optuna_wnn.store.attributes import write_attribute
from optuna_wnn.store.codec import decoded
from optuna_wnn.store.codec import read_header
from optuna_wnn.store.places import Child
from optuna_wnn.store.places import read_child
from optuna_wnn.store.reader import genome_attributes
from optuna_wnn.store.reader import genome_reader


GENOME_PARAMETER: Final = "genome"


def write_genome(
    study: optuna.Study,
    trial: Trial | FrozenTrial,
    genome: Genome,
    parents: Sequence[int] = (),
    cluster_losses: NDArray[np.float64] | None = None,
) -> None:
    """Store a genome with a running trial; one that is there already is replaced.

    Args:
        study: The trial's study.
        trial: The trial.
        genome: The genome.
        parents: Numbers of the trials that it descends from.
        cluster_losses: The loss of each of its clusters, ``float64[K]``, where it is known.
    """
    attributes = genome_attributes(genome, cluster_losses, genome_reader(study), parents)
    for key in reversed(attributes):  # the first last, so that no reader sees half a genome
        write_attribute(study._storage, trial, key, attributes[key])


def read_genome(trial: Trial | FrozenTrial, study: optuna.Study | None = None) -> Genome | None:
    """Return the genome stored with a trial, or ``None`` if there is none.

    Args:
        trial: A running or a finished trial.
        study: Its study; only needed for a finished trial whose genome is stored as a
            difference from its parents (genomes above 6 kB).

    Raises:
        InputError: If the genome is damaged, or ``study`` is needed.
    """
    return _genome_in(system_attributes(trial), trial, study)


def read_genome_and_child(trial: Trial | FrozenTrial) -> tuple[Genome | None, Child | None]:
    """Return the genome and the place of a trial by one look into the storage.

    Raises:
        InputError: As :func:`read_genome`.
    """
    attributes = system_attributes(trial)
    return _genome_in(attributes, trial, None), read_child(attributes)


def _genome_in(
    attributes: Mapping[str, Any], trial: Trial | FrozenTrial, study: optuna.Study | None
) -> Genome | None:
    where = f"trial {trial.number}"
    if isinstance(trial, Trial):
        study = trial.study
    if study is not None:
        return genome_reader(study).unpack(attributes, where)
    header = read_header(attributes, where)
    if header is None:
        return None
    if header.parents:
        raise InputError(
            f"{where}: its genome is stored as a difference from its parents; pass the study too"
        )
    return decoded(header, attributes, (), where)
