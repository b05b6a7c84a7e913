"""Sweeps: many training runs on an engine, stopped and continued as one. Imports no torch by itself."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rlopt.console.progress import duration, say
from rlopt.engine.base import Engine, MapResult
from rlopt.engine.choice import make_engine
from rlopt.engine.display import Display
from rlopt.engine.jobs import DONE, FAILED, STOPPED, JobResult, ResultFolder
from rlopt.errors import ConfigError, RunError
from rlopt.run_folder import SWEEP_FILE, RunFolder, read_json, write_json
from rlopt.settings.fields import Range, check_settings, from_mapping
from rlopt.sweeps.spec import SweepRun, SweepSpec, expand, group_name, spec_from


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where and how the runs of a sweep are run; changes nothing about their results."""

    engine: str = "local"
    """local: processes of this machine; ray: a Ray cluster (Linux)."""
    address: str | None = None
    """Ray cluster: host:port, ray://host:port or auto; without one Ray runs on this machine alone."""
    workers: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Most runs at once; default is what the cores, or the cluster, allow."""
    gpus_per_job: Annotated[float, Range(ge=0, le=64)] = 0.0
    """Share of a GPU for each run, such as 0.25 for four on each, or a whole number of GPUs."""
    retries: Annotated[int, Range(ge=0, le=100)] = 2
    """Further attempts of a run that failed, each from its newest checkpoint."""

    def make(self, threads: int) -> Engine:
        """The engine, for jobs that compute with ``threads`` threads."""
        return make_engine(
            self.engine, workers=self.workers, threads=threads, gpus_per_job=self.gpus_per_job, address=self.address
        )


class SweepFolder(RunFolder):
    """The folder of a sweep: sweep.json, results/, logs/, summary.json, and the folders of its runs."""

    @property
    def config(self) -> Path:
        """The file that says what the sweep runs."""
        return self.path / SWEEP_FILE

    @property
    def results(self) -> ResultFolder:
        """How its jobs ended."""
        return ResultFolder(self.path / "results")

    def require_same(self, spec: SweepSpec) -> None:
        """Raises :class:`rlopt.errors.RunError` if the folder holds another sweep, or other files."""
        if self.config.is_file():
            before, _ = self.read_spec()
            if before.digest != spec.digest:
                raise RunError(
                    f"{self.path} holds another sweep ({difference(before, spec)}): choose another --sweep-dir, or "
                    f"continue that one with {self.command}"
                )
        else:
            self.require_new()

    def write_spec(self, spec: SweepSpec, options: EngineOptions) -> None:
        """Writes what ``rlopt resume`` needs."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config, {"sweep": dataclasses.asdict(spec), "engine": dataclasses.asdict(options)}, shared=True)

    def read_spec(self) -> tuple[SweepSpec, EngineOptions]:
        """The sweep in this folder.

        :raises rlopt.errors.RunError: if there is none, or its file is damaged
        """
        content = read_json(self.config, "start the sweep anew in another --sweep-dir")
        if not isinstance(content, dict) or not isinstance(content.get("sweep"), dict):
            raise RunError(f"{self.config} is damaged: start the sweep anew in another --sweep-dir")
        engine = content.get("engine")
        options = from_mapping(EngineOptions, engine if isinstance(engine, dict) else {}, str(self.config))
        return spec_from(content["sweep"], str(self.config)), options


def difference(before: SweepSpec, now: SweepSpec) -> str:
    """The first axis in which two sweeps differ."""
    for key, value in dataclasses.asdict(before).items():
        other = dataclasses.asdict(now)[key]
        if str(value) != str(other):
            return f"{key} is {value} there, {other} here"[:200]
    return "they differ"


@dataclass(frozen=True)
class SweepResult:
    """How :func:`run_sweep` ended."""

    path: Path
    """The sweep's folder."""
    runs: Sequence[SweepRun]
    results: Mapping[str, JobResult]
    """By the name of the job; jobs that were never begun are missing."""
    exit_code: int
    """0 when all are done, 2 if one failed, 130 or 143 when a signal stopped it."""


def default_sweep_folder(spec: SweepSpec, stem: str = "") -> Path:
    """The same for the same sweep, so that the same command continues it."""
    return Path("runs") / group_name(["sweep", stem or "-".join(spec.agent)[:60], spec.digest])


def run_sweep(
    spec: SweepSpec, path: Path, options: EngineOptions | None = None, shard: tuple[int, int] | None = None
) -> SweepResult:
    """Runs what is still open of a sweep, says how it goes and how it ended.

    :param path: its folder, new or with the same sweep
    :param shard: only every n-th run, from the i-th on: (i, n); other processes, on other machines, take the others
    :raises rlopt.errors.ConfigError: for mistakes in the settings of any run, before the first one begins
    :raises rlopt.errors.RunError: if the folder holds another sweep, or another process works on it
    """
    options = options or EngineOptions()
    check_settings(options)
    folder = SweepFolder(path)
    runs = expand(spec, path)
    mine = runs[shard[0] :: shard[1]] if shard else runs
    locked = RunFolder(path / ".shards" / f"{shard[0]}-of-{shard[1]}") if shard else folder
    folder.require_same(spec)
    with options.make(max((run.threads for run in mine), default=1)) as engine, locked.locked():
        folder.write_spec(spec, options)
        say(f"sweep folder: {path}")
        reopen_lost(folder, mine)
        display = Display(len(mine), engine.describe(), "env steps")
        try:
            mapped = engine.map((run.job for run in mine), folder=path, retries=options.retries, observer=display)
        finally:
            display.finish()
    return _end(folder, runs, mine, mapped)


def reopen_lost(folder: SweepFolder, runs: Sequence[SweepRun]) -> None:
    """Runs that have ended but whose folders were removed are run again."""
    for run in runs:
        if not RunFolder(folder.path / run.job.name).config.is_file():
            folder.results.forget(run.job.name)


def job_states(folder: SweepFolder, runs: Sequence[SweepRun]) -> dict[str, str]:
    """The state of each run by its job's name: done, failed, begun or open."""
    states = {}
    for run in runs:
        result = folder.results.read(run.job.name)
        begun = RunFolder(folder.path / run.job.name).config.is_file()
        states[run.job.name] = result.status if result is not None else "begun" if begun else "open"
    return states


def _end(folder: SweepFolder, runs: Sequence[SweepRun], mine: Sequence[SweepRun], mapped: MapResult) -> SweepResult:
    failed = [name for name, result in mapped.results.items() if result.status == FAILED]
    code = mapped.exit_code or (2 if failed else 0)
    stored = {run.job.name: folder.results.read(run.job.name) for run in runs}
    results = {name: result for name, result in stored.items() if result is not None}
    results |= {name: result for name, result in mapped.results.items() if result.status == STOPPED}
    print_summary(folder, runs, results, say)
    seconds = sum(result.seconds for result in mapped.results.values() if result.status == DONE)
    say(f"{len(results) - sum(r.status == STOPPED for r in results.values())} of {len(runs)} runs have ended, "
        f"{duration(seconds)} of training")  # fmt: skip
    for name in failed:
        log = folder.path / "logs" / f"{name}.txt"
        say(f"failed: {name}: {mapped.results[name].reason} (log: {log})")
    if mapped.exit_code:
        say(f"stopped, checkpoints written; continue with: {folder.command}")
    elif failed:
        say(f"when that is fixed, continue with: {folder.command}")
    elif len(mine) == len(runs):
        say(f"draw them with: rlopt plot {folder.quoted}")
    say(f"sweep folder: {folder.path}")
    return SweepResult(folder.path, runs, results, code)


def check_shard(text: str) -> tuple[int, int]:
    """Reads "3/16", the third of sixteen when counted from 0.

    :raises rlopt.errors.ConfigError: for anything else
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--shard {text[:40]!r}: write I/N with I from 0 to N - 1, such as 0/16")
    return int(index), int(count)


@dataclass(frozen=True)
class SummaryRow:
    """The runs of one agent, task and setting."""

    agent: str
    env: str
    setting: str
    seeds: int
    """How many there are to be."""
    done: int
    failed: int
    steps: int | None
    """Environment steps of the shortest run that is done."""
    iqm: float | None
    """Interquartile mean over seeds of the mean return of the last evaluation; None without any."""
    low: float | None
    """Lower end of its 95% bootstrap interval; None with fewer than two seeds."""
    high: float | None


def summarise(runs: Sequence[SweepRun], results: Mapping[str, JobResult]) -> list[SummaryRow]:
    """The rows of a sweep, in the order of its runs."""
    groups: dict[tuple[str, str, str], list[SweepRun]] = {}
    for run in runs:
        groups.setdefault((run.agent, run.env, run.setting), []).append(run)
    return [_row(*key, members, results) for key, members in groups.items()]


def _row(agent: str, env: str, setting: str, runs: Sequence[SweepRun], results: Mapping[str, JobResult]) -> SummaryRow:
    from rlopt.statistics.aggregates import bootstrap_interval, iqm

    ended = [results[run.job.name] for run in runs if run.job.name in results]
    count = Counter(result.status for result in ended)
    values = [result.value for result in ended if result.status == DONE and isinstance(result.value, dict)]
    steps = [value["step"] for value in values if isinstance(value.get("step"), int)]
    returns = [float(value["return"]) for value in values if isinstance(value.get("return"), int | float)]
    low, high = bootstrap_interval(returns) if len(returns) > 1 else (None, None)
    return SummaryRow(
        agent,
        env,
        setting,
        len(runs),
        count[DONE],
        count[FAILED],
        min(steps, default=None),
        iqm(returns) if returns else None,
        low,
        high,
    )


def format_table(rows: Sequence[SummaryRow]) -> list[str]:
    """The rows as lines for people."""
    heads = ["agent", "env", "setting", "seeds", "steps", "IQM of the last evaluation [95%]"]
    cells = [heads]
    for row in rows:
        seeds = f"{row.done}/{row.seeds}" + (f", {row.failed} failed" if row.failed else "")
        cells.append(
            [row.agent, row.env, row.setting or "-", seeds, f"{row.steps:,}" if row.steps else "-", _score(row)]
        )
    if all(row.setting == "" for row in rows):
        cells = [[cell for index, cell in enumerate(line) if index != 2] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _score(row: SummaryRow) -> str:
    if row.iqm is None:
        return "-"
    return f"{row.iqm:.1f}" + ("" if row.low is None else f" [{row.low:.1f}, {row.high:.1f}]")


def print_summary(
    folder: SweepFolder, runs: Sequence[SweepRun], results: Mapping[str, JobResult], say: Callable[[str], Any]
) -> None:
    """Prints the table and writes summary.json."""
    rows = summarise(runs, results)
    write_json(folder.path / "summary.json", [vars(row) for row in rows], shared=True)
    for line in format_table(rows):
        say(line)
