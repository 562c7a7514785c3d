"""Notes in Markdown about a run and its phases, which optuna-dashboard shows with each study."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Final

import yaml

from optuna_wnn import report
from optuna_wnn.traces import PhaseTrace
from optuna_wnn.traces import RunTrace


BEGINNING: Final = "## Phase "

_LEFT: Final = "---"
_RIGHT: Final = "---:"
_OWN: Final = ("method", "free")
_WIDTH: Final = 90  # of a line of YAML
_METHODS: Final = {"ga": "Genetic algorithm", "ts": "Tabu search"}


def of_phase(run: RunTrace, index: int) -> str:
    """Return the note of a phase: what it is, what it came to, and the whole run.

    Args:
        run: The run.
        index: Which of its phases, from 0.
    """
    phase = run.phases[index]
    parts = [
        f"{BEGINNING}{index + 1} of run {run.summary.name}",
        _about(phase, _settings_of(run.configuration, index)),
        f"## Run {run.summary.name}",
        _run_table(run.summary),
        report.verdict(run.summary),
        _resume(run),
        "### Settings",
        f"```yaml\n{settings(run.summary.name, run.configuration)}```",
    ]
    return "\n\n".join(parts) + "\n"


def settings(name: str, configuration: Mapping[str, Any]) -> str:
    """Return a run's configuration as YAML: what all phases have in common stands once.

    Args:
        name: The run's name.
        configuration: As :func:`optuna_wnn.report.read_configuration` returns it.
    """
    known = {"name": name, **_without_nothing(configuration)}
    phases = known.pop("phases", [])
    known.pop("data", None)
    common = {
        key: value
        for key, value in (phases[0] if phases else {}).items()
        if key not in _OWN and all(phase.get(key) == value for phase in phases)
    }
    if common:
        known["search"] = common
    text: str = yaml.safe_dump(known, sort_keys=False, default_flow_style=None, width=_WIDTH)
    if phases:
        text += "phases:\n"
    for phase in phases:
        keys = [*_OWN, *(key for key in phase if key not in common and key not in _OWN)]
        own = {key: phase[key] for key in keys if key in phase}
        line = yaml.safe_dump(own, sort_keys=False, default_flow_style=True, width=10_000)
        text += f"- {line}"
    return text


def _without_nothing(value: Any) -> Any:
    """Return a JSON document without what is null, which is what is not set."""
    if isinstance(value, Mapping):
        return {k: _without_nothing(v) for k, v in value.items() if v is not None}
    return [_without_nothing(v) for v in value] if isinstance(value, list) else value


def _settings_of(configuration: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    phases = configuration.get("phases", [])
    return phases[index] if index < len(phases) else {}


def _about(phase: PhaseTrace, its: Mapping[str, Any]) -> str:
    summary, genome = phase.summary, phase.genome
    rows = [("study", f"`{summary.study}`")]
    if its:
        rows.append(("method", f"{_METHODS[its['method']]} over {' and '.join(its['free'])}"))
    start = "random genomes"
    if phase.seed is not None:
        origin, values = phase.seed
        start = f"trial 0, which is `{origin}`: {_pair(values)}"
    rows.append(("starts from", start))
    rows.append(("trials", f"{summary.n_trials} in {summary.seconds:.1f} s"))
    rows.append(("ended", summary.ended or "not yet"))
    if phase.bar is not None:
        missed = int((~phase.feasible).sum())
        rows.append(("accuracy bar", f"{phase.bar:.4f}, missed by {missed} trials"))
    if summary.best_trial is not None and genome is not None:
        rows.append(("best trial", f"**{summary.best_trial}**: {_pair(summary.validation)}"))
        if summary.test is not None:
            rows.append(("the same on the test part", _pair(summary.test)))
        bits = genome.n_connections / genome.n_neurons
        rows.append(
            (
                "best genome",
                f"{genome.n_clusters:,} clusters, {genome.n_neurons:,} neurons, {bits:.1f} input "
                f"bits per neuron, {genome.n_connections:,} connections; digest "
                f"`{genome.digest}`",
            )
        )
    return _table(("", ""), (_LEFT, _LEFT), rows)


def _run_table(summary: report.RunSummary) -> str:
    rows = report.rows(summary)
    if summary.best_phase is not None:
        rows[summary.best_phase] = [
            f"**{cell}**" if cell else "" for cell in rows[summary.best_phase]
        ]
    sides = [_LEFT if heading in report.TEXTS else _RIGHT for heading in report.HEADINGS]
    return _table(report.HEADINGS, sides, rows)


def _resume(run: RunTrace) -> str:
    name = run.summary.name
    return (
        "To resume, run the same command again: `optuna-wnn run CONFIG.yaml`, with the settings "
        "below and this storage. Finished phases are skipped, an unfinished one goes on. "
        f"The table and these figures: `optuna-wnn report {name} --html {name}.html`. "
        f"The best genome: `optuna-wnn export {name} best.json.gz`."
    )


def _table(heads: Sequence[str], sides: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, sides, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pair(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"CE {pair[0]:.4f}, accuracy {pair[1]:.4f}"
