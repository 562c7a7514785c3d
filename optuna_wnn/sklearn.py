"""scikit-learn's estimators: a RAM network that classifies, and encoders from numbers to bits.

Needs the extra ``sklearn``; nothing else of the package imports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from typing import Final
from typing import Literal

import numpy as np
import optuna
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.base import ClassifierMixin
from sklearn.base import TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from sklearn.utils.validation import validate_data

from optuna_wnn import report
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.genome import Genome
from optuna_wnn.memory import MemorySettings
from optuna_wnn.network import RAMNetwork
from optuna_wnn.phases import PhasedSearch
from optuna_wnn.space import GenomeSpace
from optuna_wnn.tasks.base import Examples
from optuna_wnn.tasks.base import Task
from optuna_wnn.tasks.base import pack_bits
from optuna_wnn.tasks.checks import cut_points
from optuna_wnn.tasks.checks import one_of
from optuna_wnn.tasks.checks import whole_number
from optuna_wnn.tasks.encoding import ENCODINGS
from optuna_wnn.tasks.encoding import Encoding
from optuna_wnn.tasks.encoding import learn_encoding
from optuna_wnn.tasks.encoding import packed


__all__ = [
    "BinaryEncoder",
    "DistributiveThermometerEncoder",
    "RAMClassifier",
    "ThermometerEncoder",
]

_NAME: Final = "ram-classifier"  # of a search's run, where its settings have none
# Where no validation part is wanted, each training example is left out of its own memory.
_MEMORY: Final = MemorySettings(vote="log_odds", temperature="fit", fitness_on="leave_one_out")


class _Encoder(TransformerMixin, BaseEstimator):
    """What the encoders share.

    Args:
        n_bits: Bits per feature.
    """

    _kind: str

    def __init__(self, n_bits: int = 8) -> None:
        self.n_bits = n_bits

    def fit(self, X: Any, y: Any = None) -> _Encoder:
        """Learn the code from training rows.

        Args:
            X: Numbers, ``[E, F]``.
            y: Not used.

        Returns:
            This encoder.
        """
        features = validate_data(self, X)
        n_bits = whole_number("thresholds", self.n_bits, 1)
        self.encoding_ = learn_encoding(self._kind, features, n_bits)
        return self

    def transform(self, X: Any) -> NDArray[np.bool_]:
        """Return the code of rows: ``bool[E, F * n_bits]``, feature after feature.

        Args:
            X: Numbers, ``[E, F]``.
        """
        check_is_fitted(self)
        return self.encoding_.bits(validate_data(self, X, reset=False))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the bits: that of the feature, an underscore, the bit's number.

        Args:
            input_features: Names of the features; by default those seen in ``fit``, or ``x0``,
                ``x1`` and so on.
        """
        check_is_fitted(self)
        own = getattr(self, "feature_names_in_", None)
        names = own if input_features is None else np.asarray(input_features, object)
        if names is None:
            names = [f"x{i}" for i in range(self.n_features_in_)]
        if len(names) != self.n_features_in_ or (own is not None and list(names) != list(own)):
            raise InputError(
                f"input_features: {len(names)} names are not those of the "
                f"{self.n_features_in_} features that were fitted"
            )
        return np.array([f"{n}_{t}" for n in names for t in range(self.encoding_.n_bits)], object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


class ThermometerEncoder(_Encoder):
    """Bits that say above which of equally spaced thresholds a number is.

    The thresholds cut the range of a feature's training values into ``n_bits + 1`` equal lengths.

    Example:

        .. code-block:: python

            ThermometerEncoder(n_bits=3).fit([[0.0], [4.0]]).transform([[2.5]])  # 1, 1, 0

    Args:
        n_bits: Thresholds per feature.
    """

    _kind = "uniform"


class DistributiveThermometerEncoder(_Encoder):
    """Bits that say above which quantiles of the training values a number is.

    The thresholds cut the training values of a feature into ``n_bits + 1`` parts of equally many,
    so every bit tells something, however skewed the values are.

    References:
        Bacellar, Susskind, Villon and others, "Distributive thermometer: a new unary encoding for
        weightless neural networks", ESANN 2022.

    Args:
        n_bits: Thresholds per feature.
    """

    _kind = "quantile"


class BinaryEncoder(_Encoder):
    """A number's place in the range of the training values, as a binary number.

    ``n_bits`` bits tell ``2**n_bits`` places apart, the most significant first; numbers outside of
    the range count as its ends. Fewer bits than a thermometer needs, but neighbours may differ
    in all of them.

    Args:
        n_bits: Bits per feature, at most 32.
    """

    _kind = "binary"


class RAMClassifier(ClassifierMixin, BaseEstimator):
    """A RAM network as a classifier: a wiring of one's own, a random one, or one searched for.

    With ``search`` the phases of a run are searched in ``fit``, guided by leaving every training
    example out of its own memory; then the best genome is trained on all examples.

    Example:

        .. code-block:: python

            RAMClassifier(search={"search": {"trials": 50}}, random_state=0).fit(X, y)

    Args:
        encoding: How numbers become bits: ``quantile``, ``uniform`` or ``binary``, as the encoders
            do it; ``None`` if they are bits already, such as those of an encoder in a pipeline.
        thresholds: Bits per feature.
        neurons: Neurons per class of a random wiring.
        bits: Input bits of each of its neurons, at most; fewer where there are fewer inputs.
        genome: The wiring to train, which fits the inputs; takes the place of a random one.
        memory: What cells remember and how they vote: :class:`~optuna_wnn.MemorySettings`, or a
            mapping of its fields; by default counts that vote by their log-odds, with a fitted
            temperature.
        search: What to search for: keys of a run's configuration but ``task`` and ``memory``, such
            as ``space``, ``search`` and ``phases``; an empty mapping takes their defaults. With
            ``storage``, the same ``fit`` goes on where it was interrupted. ``None`` searches
            nothing.
        validation_fraction: Share of the examples that guides the search where ``memory`` says
            ``fitness_on="validation"``.
        n_jobs: Threads; ``None`` is one, -1 all processors. No result depends on it.
        random_state: What the wiring, the search and the order of examples derive from.

    Attributes:
        classes_: The classes, ascending.
        network_: The trained :class:`~optuna_wnn.RAMNetwork`.
        genome_: Its wiring.
        summary_: What the search came to, a row per phase; ``None`` without one.
        n_features_in_: Features that were fitted.
    """

    def __init__(
        self,
        *,
        encoding: Literal["quantile", "uniform", "binary"] | None = "quantile",
        thresholds: int = 8,
        neurons: int = 32,
        bits: int = 8,
        genome: Genome | None = None,
        memory: MemorySettings | Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.encoding = encoding
        self.thresholds = thresholds
        self.neurons = neurons
        self.bits = bits
        self.genome = genome
        self.memory = memory
        self.search = search
        self.validation_fraction = validation_fraction
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RAMClassifier:
        """Search a wiring, if that is wanted, and train it.

        Args:
            X: Numbers, or bits, ``[E, F]``.
            y: The class of each row.

        Returns:
            This classifier.

        Raises:
            InputError: If a setting is wrong, or the examples do not fit it.
        """
        if self.genome is not None and self.search is not None:
            raise InputError("RAMClassifier: genome and search are both given; leave one out")
        features, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        seed = int(check_random_state(self.random_state).randint(2**31))
        self._encoding = self._learn(features)
        order = np.random.default_rng(seed).permutation(len(targets))
        examples = Examples(self._inputs(features)[order], targets[order].astype(np.int64))
        memory = self.memory if self.memory is not None else _MEMORY
        settings = memory if isinstance(memory, MemorySettings) else MemorySettings(**memory)
        task = self._task(examples, features.shape[1])
        threads = effective_n_jobs(self.n_jobs)
        self.summary_: report.RunSummary | None = None
        self.genome_ = self.genome
        if self.search is not None:
            self.genome_ = self._searched(task, settings, threads, seed)
        elif self.genome_ is None:
            bits = min(whole_number("bits", self.bits, 1), task.n_inputs)
            space = GenomeSpace.for_task(task, neurons=self.neurons, bits=bits)
            self.genome_ = space.sample(np.random.default_rng([seed, 1]))
        self.network_ = RAMNetwork.for_task(task, self.genome_, settings, threads=threads)
        self.network_.fit(examples.inputs, examples.targets)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of every row.

        Args:
            X: Numbers, or bits, ``[E, F]``.
        """
        inputs = self._checked(X)
        predicted: NDArray[Any] = self.classes_[self.network_.predict(inputs)]
        return predicted

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of every class, ``float64[E, K]``, in the order of ``classes_``.

        Args:
            X: Numbers, or bits, ``[E, F]``.
        """
        inputs = self._checked(X)
        return self.network_.predict_proba(inputs)

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the natural logarithms of :meth:`predict_proba`.

        Args:
            X: Numbers, or bits, ``[E, F]``.
        """
        inputs = self._checked(X)
        return self.network_.predict_log_proba(inputs)

    # -- inputs --

    def _learn(self, features: NDArray[Any]) -> Encoding | None:
        if self.encoding is None:
            return None
        one_of("encoding", self.encoding, ENCODINGS)
        n_bits = whole_number("thresholds", self.thresholds, 1)
        return learn_encoding(self.encoding, features, n_bits)

    def _checked(self, X: Any) -> NDArray[np.uint64]:
        check_is_fitted(self)
        return self._inputs(validate_data(self, X, reset=False))

    def _inputs(self, features: NDArray[Any]) -> NDArray[np.uint64]:
        """Return rows as packed bits."""
        if self._encoding is not None:
            return packed(self._encoding, features)
        ones = features.astype(bool)
        if not (ones == features).all():
            raise InputError("RAMClassifier: encoding is None, but X has more than 0 and 1")
        return pack_bits(ones)

    def _task(self, examples: Examples, n_features: int) -> Task:
        width = 1 if self._encoding is None else self._encoding.n_bits
        none = Examples(examples.inputs[:0], examples.targets[:0])
        return Task(
            _NAME, "classes", n_features * width, len(self.classes_), examples, none, none,
            input_groups=(n_features, width),
        )  # fmt: skip

    # -- searching --

    def _searched(self, task: Task, memory: MemorySettings, threads: int, seed: int) -> Genome:
        """Return the best genome of a run, and keep what the run came to."""
        given = dict(self.search or {})
        taken = {"task", "memory"} & given.keys()
        if taken:
            raise InputError(f"RAMClassifier.search: {min(taken)} is given by the classifier")
        if memory.fitness_on == "validation":
            task = self._with_validation(task)
        config = parse_config(
            {
                "name": _NAME,
                "storage": "memory:",
                "seed": seed,
                "threads": threads,
                **given,
                "task": {"kind": _NAME},
            }
        ).model_copy(update={"memory": memory})
        with _quiet_optuna():
            search = PhasedSearch(config, task=task)
            self.summary_ = search.run()
            return report.best_genome(search.storage, config.name)

    def _with_validation(self, task: Task) -> Task:
        """Return the task with a share of its training examples, in any order, held out."""
        (cut,) = cut_points(len(task.train), 1 - self.validation_fraction)
        inputs, targets = task.train.inputs, task.train.targets
        train = Examples(inputs[:cut], targets[:cut])
        validation = Examples(inputs[cut:], targets[cut:])
        if not len(train) or not len(validation):
            raise InputError(
                f"RAMClassifier.validation_fraction: {self.validation_fraction} of "
                f"{len(task.train)} examples leaves none; choose another, or more examples"
            )
        return replace(task, train=train, validation=validation)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Have Optuna log warnings only, for as long as this lasts."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
