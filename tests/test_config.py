"""Configurations: defaults, overrides, and one clear line for every mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from optuna_wnn.cli import main
from optuna_wnn.config import RunConfig
from optuna_wnn.config import parse_config
from optuna_wnn.errors import InputError
from optuna_wnn.fitness import FitnessCalculatorType
from optuna_wnn.sources import load_config


MINIMAL = "name: tiny\ntask: {kind: python-docs, context: 2}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(text: str, overrides: Sequence[str] = ()) -> RunConfig:
    path = Path("run.yaml")
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


# -- what is taken -------------------------------------------------------------------------------


def test_a_name_and_a_task_are_enough(here: Path) -> None:
    config = loaded(MINIMAL)
    assert config.name == "tiny"
    assert config.task.options == {"context": 2}
    assert config.space.neurons == (2, 64)
    assert config.fitness.calculator is FitnessCalculatorType.CE
    assert [phase.label for phase in config.phases] == [
        "ga-neurons",
        "ts-neurons",
        "ga-bits",
        "ts-bits",
        "ga-connections",
        "ts-connections",
    ]


def test_the_quickstart_is_a_valid_configuration() -> None:
    path = Path(__file__).parent.parent / "examples" / "quickstart.yaml"
    assert len(load_config(path).phases) == 6


def test_a_phase_has_the_settings_of_search_unless_it_says_otherwise(here: Path) -> None:
    config = loaded(
        MINIMAL + "search: {trials: 7, patience: 2}\n"
        "phases: [{method: ga, free: bits}, {method: ts, free: bits, trials: 9}]\n"
    )
    assert [(phase.trials, phase.patience) for phase in config.phases] == [(7, 2), (9, 2)]


def test_one_number_is_a_range_of_one(here: Path) -> None:
    assert loaded(MINIMAL + "space: {bits: 8}\n").space.bits == (8, 8)


def test_a_merged_mapping_may_be_overruled(here: Path) -> None:
    config = loaded(
        MINIMAL + "search: &all {trials: 7, patience: 2}\n"
        "phases: [{<<: *all, method: ga, free: bits, trials: 9}]\n"
    )
    assert (config.phases[0].trials, config.phases[0].patience) == (9, 2)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("seed=5", lambda c: c.seed == 5),
        ("space.neurons=[3, 4]", lambda c: c.space.neurons == (3, 4)),
        ("space.neurons.0=3", lambda c: c.space.neurons == (3, 5)),
        ("search.trials=9", lambda c: {p.trials for p in c.phases} == {9}),
        ("phases.1.trials=9", lambda c: [p.trials for p in c.phases] == [200, 9] + 4 * [200]),
        ("memory.mode=ternary", None),
        ("name='007'", lambda c: c.name == "007"),
        ("task.split=[0.5, 0.25, 0.25]", lambda c: c.task.options["split"] == [0.5, 0.25, 0.25]),
        ("threads=null", lambda c: c.threads is None),
        ("storage=sqlite:///a=b.db", lambda c: c.storage == "sqlite:///a=b.db"),
    ],
)
def test_a_key_can_be_overridden(here: Path, override: str, found: object) -> None:
    text = MINIMAL + "space: {neurons: [2, 5]}\n"
    if found is None:  # valid only together with another
        with pytest.raises(InputError, match="vote"):
            loaded(text, [override])
        assert loaded(text, [override, "memory.vote=mean"]).memory.mode == "ternary"
    else:
        assert callable(found)
        assert found(loaded(text, [override]))


def test_an_override_changes_one_of_two_phases_that_share_an_anchor(here: Path) -> None:
    text = MINIMAL + "phases: [&one {method: ga, free: bits}, *one]\n"
    assert [p.trials for p in loaded(text, ["phases.0.trials=3"]).phases] == [3, 200]


# -- what makes a run the same -------------------------------------------------------------------


def test_where_a_run_happens_is_no_part_of_what_it_is(here: Path) -> None:
    document = {"name": "a", "task": {"kind": "text", "path": "a.txt", "context": 2}}
    other = {
        "name": "b",
        "task": {"kind": "text", "path": "/elsewhere/a.txt", "context": 2},
        "storage": "sqlite:///b.db",
        "backend": "reference",
        "threads": 3,
        "device_bytes": 1 << 30,
    }
    assert parse_config(document).identity() == parse_config(other).identity()


def test_what_is_searched_is_part_of_what_a_run_is(here: Path) -> None:
    base = {"name": "a", "task": {"kind": "text", "path": "a.txt", "context": 2}}
    for key, value in {
        "seed": 3,
        "space": {"bits": 5},
        "search": {"trials": 3},
        "memory": {"prior": 0.1},
        "fitness": {"calculator": "HARMONIC_RANK"},
        "task": {"kind": "text", "path": "a.txt", "context": 3},
    }.items():
        assert parse_config({**base, key: value}).identity() != parse_config(base).identity()


# -- what is refused -----------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(10 * [f'*a{i - 1}'])}]\n" for i in range(1, 9)
)
MERGING_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join(10 * [f'*a{i - 1}'])}]}}\n" for i in range(1, 9)
)

# Name of the case, content of the file, where the mistake is, and what the line says of it.
BROKEN: list[tuple[str, str | bytes, str, str]] = [
    # no YAML at all
    ("empty", "", "", "a mapping of keys is needed"),
    ("only a comment", "# nothing\n", "", "a mapping of keys is needed"),
    ("list at the top", "- name: x\n", "", "a mapping of keys is needed"),
    ("text at the top", "name", "", "a mapping of keys is needed"),
    ("binary", bytes(range(256)), "", "not UTF-8"),
    ("NUL", b"name: a\0b\n", "", "special characters are not allowed"),
    ("UTF-16", MINIMAL.encode("utf-16"), "", "save it as UTF-8"),
    ("Latin-1", "name: caf\xe9\n".encode("latin-1"), "byte 9", "save it as UTF-8"),
    ("tab", "name: a\n\ttask: 1\n", "line 2", "cannot start any token"),
    ("unclosed", MINIMAL + "space: {neurons: [2, 3]\n", "line 4", "expected"),
    ("two documents", "name: a\n---\nname: b\n", "line 2", "another document"),
    ("huge", MINIMAL + "#" * (1 << 20), "", "over 1 MiB"),
    ("deep", MINIMAL + "space: " + 5000 * "[" + 5000 * "]" + "\n", "", "nested too deeply"),
    ("billion laughs", MINIMAL + LAUGHS, "", "remove aliases"),
    ("merging laughs", MINIMAL + MERGING_LAUGHS, "", "merges over"),
    ("alias of itself", "name: x\ntask: &a {kind: text, split: *a}\n", "", "nested too deeply"),
    ("unknown alias", "name: *x\n", "line 1", "undefined alias"),
    ("Python object", MINIMAL + "seed: !!python/name:os.system\n", "line 3", "constructor"),
    ("month 13", "name: 2020-13-01\n", "", "month must be in 1..12); quote it"),
    ("date", "name: 2020-12-01\n", "name", "a date is no text"),
    ("set", MINIMAL + "space: {neurons: !!set {4, 8}}\n", "space.neurons", "a set is no text"),
    ("binary value", MINIMAL + "backend: !!binary eA==\n", "backend", "a bytes is no text"),
    ("giant number", MINIMAL + f"seed: 0x{'f' * 9999}\n", "seed", "too large"),
    ("wrong tag", MINIMAL + "seed: !!int x\n", "", "invalid literal"),
    ("number as key", MINIMAL + "1: 2\n", "1", "quote it"),
    # keys
    ("key twice", MINIMAL + "name: again\n", "line 3", "'name' is there twice; remove one"),
    ("inner key twice", MINIMAL + "space:\n  bits: 3\n  bits: 4\n", "line 5", "'bits' is there"),
    ("no name", "task: {kind: text}\n", "name", "this key is needed"),
    ("no task", "name: x\n", "task", "this key is needed"),
    ("no kind", "name: x\ntask: {}\n", "task.kind", "this key is needed"),
    ("unknown key", MINIMAL + "serch: {}\n", "serch", "did you mean search?"),
    ("very unknown key", MINIMAL + "zzz: 1\n", "zzz", "there are name, seed"),
    ("unknown key of space", MINIMAL + "space: {bit: 1}\n", "space.bit", "did you mean bits?"),
    ("unknown key of memory", MINIMAL + "memory: {mod: 1}\n", "memory.mod", "did you mean mode?"),
    ("unknown key of fitness", MINIMAL + "fitness: {ce: 1}\n", "fitness.ce", "there are calculat"),
    ("unknown key of search", MINIMAL + "search: {trails: 1}\n", "search.trails", "mean trials?"),
    (
        "unknown key of a phase",
        MINIMAL + "phases: [{method: ga, free: bits, seeds: 1}]\n",
        "phases.0.seeds",
        "there is no such key",
    ),
    ("key with a line break", MINIMAL + '"a\\nb": 1\n', "a\\nb", "there is no such key"),
    # values
    ("section of nothing", MINIMAL + "memory:\n", "memory", "a mapping of keys is needed"),
    ("section is a list", MINIMAL + "search: [1]\n", "search", "a mapping of keys is needed"),
    ("name with a slash", "name: a/b\ntask: {kind: text}\n", "name", "use up to 100 letters"),
    ("name of dots", "name: ../x\ntask: {kind: text}\n", "name", "use up to 100 letters"),
    ("long name", f"name: {'x' * 101}\ntask: {{kind: text}}\n", "name", "use up to 100 letters"),
    ("name is a number", "name: 7\ntask: {kind: text}\n", "name", "put it in quotes"),
    ("negative seed", MINIMAL + "seed: -1\n", "seed", "greater than or equal to 0"),
    ("seed of 33 bits", MINIMAL + "seed: 4294967296\n", "seed", "less than 4294967296"),
    ("no trials", MINIMAL + "search: {trials: 0}\n", "search.trials", "or equal to 1 (it is 0)"),
    ("half a trial", MINIMAL + "search: {trials: 1.5}\n", "search.trials", "whole number"),
    ("trials as text", MINIMAL + "search: {trials: '5'}\n", "search.trials", "whole number"),
    ("true trials", MINIMAL + "search: {trials: true}\n", "search.trials", "whole number"),
    (
        "rate above 1",
        MINIMAL + "search: {mutation_rate: 1.1}\n",
        "search.mutation_rate",
        "less than or equal to 1",
    ),
    (
        "rate is no number",
        MINIMAL + "search: {crossover_rate: .nan}\n",
        "search.crossover_rate",
        "finite",
    ),
    (
        "infinite improvement",
        MINIMAL + "search: {min_improvement: .inf}\n",
        "search.min_improvement",
        "finite",
    ),
    (
        "population of one",
        MINIMAL + "search: {population_size: 1}\n",
        "search.population_size",
        "or equal to 2",
    ),
    (
        "more sources than neighbors",
        MINIMAL + "search: {n_sources: 30}\n",
        "search.n_sources",
        "above n_neighbors, 20; lower it",
    ),
    (
        "more sources than neighbors in one phase",
        MINIMAL + "phases: [{method: ts, free: bits, n_sources: 30}]\n",
        "phases.0.n_sources",
        "above n_neighbors, 20; lower it",
    ),
    ("unknown calculator", MINIMAL + "fitness: {calculator: X}\n", "fitness.calculator", "'CE'"),
    ("weight of 0", MINIMAL + "fitness: {weights: [1, 0]}\n", "fitness.weights", "above 0"),
    (
        "three weights",
        MINIMAL + "fitness: {weights: [1, 1, 1]}\n",
        "fitness.weights",
        "3 weights for 2 objectives",
    ),
    ("range upside down", MINIMAL + "space: {bits: [9, 8]}\n", "space.bits", "[lowest, highest]"),
    ("range from 0", MINIMAL + "space: {neurons: [0, 8]}\n", "space.neurons", "from 1"),
    ("range of three", MINIMAL + "space: {bits: [1, 2, 3]}\n", "space.bits", "[lowest, highest]"),
    ("a million neurons", MINIMAL + "space: {neurons: 1000000}\n", "space.neurons", "to 65536"),
    (
        "start outside",
        MINIMAL + "space: {neurons: [2, 8], start_neurons: 9}\n",
        "space.start_neurons",
        "outside space.neurons, [2, 8]",
    ),
    # phases
    ("no phases", MINIMAL + "phases: []\n", "phases", "at least one is needed"),
    ("phases of nothing", MINIMAL + "phases:\n", "phases", "a list is needed"),
    ("phases as a mapping", MINIMAL + "phases: {ga: bits}\n", "phases", "a list is needed"),
    ("phase is a word", MINIMAL + "phases: [ga]\n", "phases.0", "a mapping of keys is needed"),
    (
        "unknown method",
        MINIMAL + "phases: [{method: sa, free: bits}]\n",
        "phases.0.method",
        "'ga' or 'ts'",
    ),
    ("no method", MINIMAL + "phases: [{free: bits}]\n", "phases.0.method", "this key is needed"),
    ("frees nothing", MINIMAL + "phases: [{method: ga, free: []}]\n", "phases.0.free", "at least"),
    (
        "frees something else",
        MINIMAL + "phases: [{method: ga, free: [bits, bites]}]\n",
        "phases.0.free.1",
        "'neurons', 'bits' or 'connections'",
    ),
    (
        "frees bits twice",
        MINIMAL + "phases: [{method: ga, free: [bits, bits]}]\n",
        "phases.0.free",
        "each once",
    ),
    # what does not go together
    ("unknown mode", MINIMAL + "memory: {mode: x}\n", "memory.mode", "'wisard', 'ternary'"),
    (
        "vote of other cells",
        MINIMAL + "memory: {mode: wisard, vote: log_odds}\n",
        "memory.vote",
        "use vote: mean",
    ),
    (
        "leave one out of cells that do not count",
        MINIMAL + "memory: {mode: quad_binary, vote: mean, fitness_on: leave_one_out}\n",
        "memory.fitness_on",
        "mode: frequency or ternary",
    ),
    ("hot", MINIMAL + "memory: {temperature: hot}\n", "memory.temperature", "number"),
    ("infinitely hot", MINIMAL + "memory: {temperature: .inf}\n", "memory.temperature", "finite"),
    ("number in quotes", MINIMAL + "memory: {prior: '0.5'}\n", "memory.prior", "number is needed"),
    ("no YAML number", MINIMAL + "memory: {prior: 1e-3}\n", "memory.prior", "as in 1.0e-3"),
    ("true as a number", MINIMAL + "memory: {prior: true}\n", "memory.prior", "number is needed"),
    ("half blocks", MINIMAL + "memory: {blocks: 2.5}\n", "memory.blocks", "whole number"),
    (
        "quoted seed",
        MINIMAL + "memory: {sample_seed: '1'}\n",
        "memory.sample_seed",
        "whole number",
    ),
    ("no blocks", MINIMAL + "memory: {blocks: 1}\n", "memory.blocks", "at least 2"),
    # what only the task, the backend or the storage can tell
    ("unknown kind", "name: x\ntask: {kind: txt}\n", "task.kind", "not one of python-docs, text"),
    (
        "unknown option",
        "name: x\ntask: {kind: python-docs, contxt: 3}\n",
        "task.contxt",
        "it has context, split",
    ),
    ("no context", "name: x\ntask: {kind: python-docs, context: 0}\n", "task.context", "at least"),
    ("no path", "name: x\ntask: {kind: text}\n", "task.path", "needs the path of a file"),
    (
        "no such file",
        "name: x\ntask: {kind: text, path: gone.txt}\n",
        "gone.txt",
        "correct task.path",
    ),
    (
        "a device as data",
        "name: x\ntask: {kind: text, path: /dev/zero}\n",
        "/dev/zero",
        "no ordinary file; correct task.path",
    ),
    (
        "shares of 2 in all",
        "name: x\ntask: {kind: python-docs, split: [1, 0.5, 0.5]}\n",
        "task.split",
        "sum to 1",
    ),
    ("more bits than inputs", MINIMAL + "space: {bits: 20}\n", "space.bits", "lower it to 16"),
    ("129 bits", MINIMAL + "space: {bits: 129}\n", "space.bits", "above 128; lower it"),
    ("unknown backend", MINIMAL + "space: {bits: 4}\nbackend: tpu\n", ": backend", "not one of"),
    (
        "unknown kind of storage",
        MINIMAL + "space: {bits: 4}\nstorage: floppy://a\n",
        "storage floppy://a",
        "check the URL",
    ),
    (
        "storage without a scheme",
        MINIMAL + "space: {bits: 4}\nstorage: study.db\n",
        "storage study.db",
        "check the URL",
    ),
    (
        "storage in no folder",
        MINIMAL + "space: {bits: 4}\nstorage: sqlite:///gone/a.db\n",
        "storage sqlite:///gone/a.db",
        "unable to open",
    ),
]


@pytest.mark.parametrize(
    ("content", "place", "hint"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN]
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | bytes,
    place: str,
    hint: str,
) -> None:
    path = here / "run.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    line = refusal(["run", "run.yaml"], capsys)
    assert line.startswith("optuna-wnn: run.yaml: ")
    assert place in line
    assert hint in line
    assert list(here.iterdir()) == [path]


@pytest.mark.parametrize(
    ("override", "place", "hint"),
    [
        ("seed", "--set seed", "give it as key=value"),
        ("=3", "--set =3", "give it as key=value"),
        ("seed=[", "--set seed", "not valid YAML"),
        ("seed={a: 1, a: 2}", "--set seed", "is there twice"),
        ("seed=2020-13-13", "--set seed", "quote it"),
        ("seed=x", "seed", "a whole number is needed (it is 'x')"),
        ("seed.x=3", "--set seed.x", "seed is a single value"),
        ("sed=3", "sed", "did you mean seed?"),
        ("search.trials.x=3", "search.trials", "a whole number"),
        ("phases.6.trials=3", "--set phases.6", "there are 6 of them, from 0"),
        ("phases.-1.trials=3", "--set phases.-1", "there are 6 of them, from 0"),
        ("phases.².trials=3", "--set phases.²", "there are 6 of them, from 0"),
        ("space.neurons.2=3", "--set space.neurons.2", "there are 2 of them, from 0"),
        ("space.bits=200", "space.bits", "above 128"),
        ("task.kind=tabular", "task.context", "no such option"),
        ("a..b=3", "--set a..b=3", "give it as key=value"),
    ],
)
def test_a_wrong_override_is_one_line_and_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], override: str, place: str, hint: str
) -> None:
    path = here / "run.yaml"
    path.write_text(MINIMAL + "seed: 1\nspace: {neurons: [2, 3]}\n")
    line = refusal(["run", "run.yaml", "--set", override], capsys)
    assert place in line
    assert hint in line
    assert list(here.iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "hint"),
    [("gone.yaml", "No such file"), (".", "Is a directory"), ("a\nb.yaml", "a\\nb.yaml: cannot")],
)
def test_a_file_that_cannot_be_read_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], path: str, hint: str
) -> None:
    assert hint in refusal(["run", path], capsys)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the command refuses."""
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.endswith("\n")
    (line,) = told.err[:-1].split("\n")
    return line
