"""The work between two rollouts of a run: it evaluates, logs, writes checkpoints and stops."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from rlopt.checkpoint.files import (
    checkpoint_name,
    checkpoint_step,
    list_checkpoints,
    prune_checkpoints,
    write_checkpoint,
)
from rlopt.checkpoint.model_state import LastBoundary, OwnState, capture_state, has_episodes
from rlopt.console.progress import Progress
from rlopt.console.signals import StopRequest
from rlopt.envs.names import time_limit
from rlopt.errors import RunError, StoppedError, one_line
from rlopt.evaluation.evaluate import STRETCH, EvaluationResult, evaluate
from rlopt.loggers.writers import CsvLog, RunLogs
from rlopt.optim.lockstep import has_other_runs
from rlopt.run_folder import RunFolder, read_json, write_json
from rlopt.settings.run import RunConfig
from rlopt.state.proof import EXACT, UNPROVED, Prover, Verdict
from rlopt.storage.checked_folder import FolderKind, write_checked

EVALUATION_SEED_OFFSET = 1_000_003
"""Added to the run's seed for evaluations, so that they do not play the episodes that were trained on."""
PATIENCE = 5.0
"""Seconds that an evaluation may still take once the run is to stop; a longer one is played again after a resume."""
KEEPING_SHARE = 0.02
"""Largest share of the time that may go into keeping the state of every boundary."""


def crossed(every: int, previous: int, step: int) -> bool:
    """Whether a multiple of ``every`` lies in ``(previous, step]``; never for ``every`` = 0."""
    return every > 0 and step // every > previous // every


PROOF = FolderKind(name="proof", format="rlopt-proof", elsewhere="use another run folder")


def read_verdict(folder: RunFolder) -> Verdict:
    """What was shown of a run's environments so far, see :mod:`rlopt.state.proof`."""
    try:
        return Verdict.read(read_json(folder.resume))
    except RunError:  # none was written, or it is damaged
        return Verdict.read(None)


def mean_return(model: BaseAlgorithm) -> float | None:
    """Mean return of the last training episodes, None before the first one ends."""
    episodes = model.ep_info_buffer
    return float(np.mean([episode["r"] for episode in episodes])) if episodes else None


class EpisodeRecorder(BaseCallback):
    """Adds a row to episodes.csv for every training episode that ends, with its un-normalised return."""

    def __init__(self, log: CsvLog) -> None:
        super().__init__()
        self.log = log

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            episode = self.locals["infos"][index].get("episode")
            if episode is not None:
                self.log.append({"step": self.num_timesteps, "return": episode["r"], "length": episode["l"]})
        return True


@dataclass
class HookState:
    """What the hook remembers from one boundary to the next. Every checkpoint has it, as its tree ``run``."""

    previous_step: int = 0
    last_checkpoint: int = -1
    last_evaluation: int = -1
    last_log: int = -1
    best_return: float | None = None
    best_checkpoint: str | None = None
    scheduled: list[int] = field(default_factory=list)
    """Steps of the last two checkpoints that every run of the same settings writes, whatever its evaluations."""


class RunHook:
    """Is called with the model at every boundary; evaluates, logs, writes a checkpoint and stops, in this order.

    :param folder: folder of the run
    :param run: its settings, resolved
    :param env_settings: of the training environment; evaluations make environments of their own from it
    :param metadata: written into every checkpoint
    :param state: state of the checkpoint that the run continues, or a new one
    :param counter: the model's attribute that ``progress`` shows
    """

    def __init__(
        self,
        folder: RunFolder,
        run: RunConfig,
        env_settings: Any,
        logs: RunLogs,
        progress: Progress,
        stop: StopRequest,
        metadata: Mapping[str, Any],
        state: HookState,
        counter: str = "num_timesteps",
    ) -> None:
        self.folder, self.run, self.env_settings = folder, run, env_settings
        self.logs, self.progress, self.stop = logs, progress, stop
        self.metadata, self.state = dict(metadata), state
        self.stopped = False
        self._counter = counter
        self._prover: Prover | None = None
        self._evaluating: dict[str, Any] | None = None
        """While an evaluation is played: the tree ``run`` with which it will be played again."""
        self._last: LastBoundary | None = None
        """What is kept of the boundary before the present steps."""
        self._last_rows: dict[str, Any] | None = None
        """Where the logs stood then; None where no step after it is lost."""
        self._keeping_seconds, self._kept_at = 0.0, time.perf_counter()
        self._asked_to_stop: float | None = None
        """When an evaluation first saw that the run is to stop."""

    def __call__(self, model: BaseAlgorithm) -> bool:
        goes_on = self._serve(model)
        if goes_on:
            self._keep(model)
        return goes_on

    def _keep(self, model: BaseAlgorithm) -> None:
        """Keeps what :meth:`rescue` needs: all that an exact continuation needs if that takes little of the time."""
        began = time.perf_counter()
        whole = self._keeping_seconds <= KEEPING_SHARE * (began - self._kept_at)
        self._last = LastBoundary.of(model, whole)
        self._last_rows = self.logs.position() if getattr(model, "replay_buffer", None) is None else None
        self._kept_at = time.perf_counter()
        if whole:
            self._keeping_seconds = self._kept_at - began

    def rescue(self, model: BaseAlgorithm) -> str:
        """Writes a checkpoint of the last boundary after an environment has failed; says in words what is kept."""
        try:
            goes_on = self._rescue(model)
        except Exception as error:  # what has to be said is why the environment failed
            return f"no checkpoint could be written ({type(error).__name__}: {one_line(error)})"
        found = list_checkpoints(self.folder.checkpoints)
        if not found:
            return "no update was done before"
        fresh = "" if goes_on else ", where fresh episodes begin"
        return f"step {checkpoint_step(found[-1]):,} is kept{fresh}"

    def _rescue(self, model: BaseAlgorithm) -> bool:
        """Whether the running episodes continue from what is kept."""
        if self._evaluating is not None:
            step, trees = model.num_timesteps, capture_state(model, copy=False)
            self._write(step, trees, {**self._evaluating, "last_checkpoint": step})
            return has_episodes(trees)
        found = None if self._last is None else self._last.capture_state(model, "the environment failed")
        if found is None or found[0] in (0, self.state.last_checkpoint):
            return True  # nothing is written: the checkpoint that is there is of a boundary
        rows = {} if self._last_rows is None else {"logs": self._last_rows}
        self._write(*found, {**self._run_tree(), "last_checkpoint": found[0], **rows})
        return has_episodes(found[1])

    def _serve(self, model: BaseAlgorithm) -> bool:
        step, previous = model.num_timesteps, self.state.previous_step
        self.progress.update(getattr(model, self._counter), lambda: mean_return(model))
        if self.stop.received is None:
            self.prove(model, last=False)
        if step != previous:  # the first boundary after a resume was served before the checkpoint was written
            try:
                improved = crossed(self.run.eval_every, previous, step) and self.evaluate(model)
            except StoppedError:
                self._give_up(model)
                return False
            self.state.previous_step = step
            if self.state.last_evaluation == step or crossed(self.run.log_every, previous, step):
                self.log(model)
            if crossed(self.run.checkpoint_every, previous, step):
                self.checkpoint(model, scheduled=True)
            elif improved:
                self.checkpoint(model)
        if self.stop.received is None:
            return True
        self.stopped = True
        if self.state.last_checkpoint != step:
            self.checkpoint(model)
        self.prove(model, last=True)
        return False

    def finish(self, model: BaseAlgorithm) -> None:
        """The last boundary: an evaluation, a row and a checkpoint of the end, whatever the intervals say."""
        step = model.num_timesteps
        self.progress.update(getattr(model, self._counter), lambda: mean_return(model))
        if self.run.eval_every > 0 and self.state.last_evaluation != step:
            try:
                self.evaluate(model)
            except StoppedError:
                self._give_up(model)
                return
        self.state.previous_step = step
        if self.state.last_log != step:
            self.log(model)
        self.checkpoint(model, scheduled=True)
        self.prove(model, last=True)

    def _give_up(self, model: BaseAlgorithm) -> None:
        """Stops in the middle of an evaluation, with a checkpoint from which it is played again."""
        self._rescue(model)
        self._evaluating, self.stopped = None, True
        self.progress.say("the evaluation was stopped; it runs again when the run continues")
        self.prove(model, last=True)

    def _must_stop(self) -> bool:
        """Whether the run is to stop and has waited for the evaluation long enough."""
        if self.stop.received is None:
            return False
        if self._asked_to_stop is None:
            self._asked_to_stop = time.monotonic()
        return time.monotonic() - self._asked_to_stop > PATIENCE

    def _evaluation_settings(self, model: BaseAlgorithm) -> Any:
        """Those of the environments to evaluate in: with stretches for episodes where none has ended in training."""
        limit = self.env_settings.max_episode_steps or time_limit(self.env_settings.id)
        endless = limit is None and not getattr(model, "ep_info_buffer", None)
        settings = dataclasses.replace(self.env_settings, max_episode_steps=STRETCH) if endless else self.env_settings
        if endless and self.metadata.get("env") != settings.as_dict():
            self.progress.say(f"no episode has ended so far: an evaluation episode lasts {STRETCH} steps")
        self.metadata["env"] = settings.as_dict()
        return settings

    def prove(self, model: BaseAlgorithm, last: bool) -> None:
        """Compares the environments with restored ones, now and then, and writes what came of it to resume.json."""
        if self._prover is None:
            # An agent with a state of its own begins and restores its episodes as it likes.
            self._prover = Prover(None if isinstance(model, OwnState) else model.env)
        before = self._prover.verdict
        verdict = self._prover.at_boundary(model.num_timesteps, last)
        if verdict is not None and not (verdict.kind == UNPROVED and read_verdict(self.folder).kind == EXACT):
            if verdict.kind == EXACT:
                write_checked(self.folder.proof, PROOF, self._prover.shown, {}, {})
            write_json(self.folder.resume, dataclasses.asdict(verdict))
            if verdict.kind != EXACT and (before is None or before.kind != verdict.kind):
                self.progress.say(f"warning: no exact resume: {verdict.sentence()}")

    def evaluate(self, model: BaseAlgorithm) -> bool:
        """Plays evaluation episodes; returns whether their mean return is the best so far."""
        if self._prover is not None:
            self._prover.interrupt()
        step, self._evaluating = model.num_timesteps, self._run_tree()
        settings = self._evaluation_settings(model)
        result = self._evaluation(model, settings)
        for episode, (value, length) in enumerate(zip(result.returns, result.lengths, strict=True)):
            self.logs.evaluations.append({"step": step, "episode": episode, "return": value, "length": length})
        self.logs.evaluations.flush()
        model.logger.record("eval/mean_return", result.mean)
        model.logger.record("eval/iqm_return", result.iqm)
        model.logger.record("eval/mean_length", float(np.mean(result.lengths)))
        self.progress.say(
            f"evaluation at step {step:,}: mean return {result.mean:.1f} over {self.run.eval_episodes} episodes"
        )
        self.progress.evaluated(step, float(result.mean))
        for name, policy in getattr(model, "further_policies", dict)().items():
            other = self._evaluation(policy, settings)
            model.logger.record(f"eval/{name}_mean_return", other.mean)
            model.logger.record(f"eval/{name}_iqm_return", other.iqm)
            self.progress.say(f"evaluation of the {name} at step {step:,}: mean return {other.mean:.1f}")
        self._evaluating, self.state.last_evaluation = None, step
        improved = self.state.best_return is None or result.mean > self.state.best_return
        if improved:
            self.state.best_return, self.state.best_checkpoint = float(result.mean), checkpoint_name(step)
        model.logger.record("eval/best_mean_return", self.state.best_return)
        return improved

    def _evaluation(self, policy: Any, settings: Any) -> EvaluationResult:
        return evaluate(
            policy,
            settings,
            self.run.eval_episodes,
            seed=self.run.seed + EVALUATION_SEED_OFFSET,
            backend="auto" if settings.backend == "warp" else settings.backend,  # in dm_control itself
            stop=self._must_stop,
        )

    def log(self, model: BaseAlgorithm) -> None:
        """Writes one row of everything the agent has logged since the last one."""
        self.folder.require_there()
        self.state.last_log = model.num_timesteps
        model.dump_logs()
        self.logs.flush()

    def checkpoint(self, model: BaseAlgorithm, scheduled: bool = False) -> Path:
        """Writes a checkpoint, then removes the ones that are neither among the newest nor the best."""
        if scheduled:
            self.state.scheduled = [*self.state.scheduled[-1:], model.num_timesteps]
        self.state.last_checkpoint = model.num_timesteps
        return self._write(model.num_timesteps, capture_state(model, copy=False), self._run_tree())

    def _run_tree(self) -> dict[str, Any]:
        return {**vars(self.state), "logs": self.logs.position()}

    def _write(self, step: int, trees: Mapping[str, Any], run_tree: Mapping[str, Any]) -> Path:
        self.folder.require_there()
        self.logs.flush(to_disk=True)
        path = write_checkpoint(self.folder.checkpoints, step, {**trees, "run": dict(run_tree)}, self.metadata)
        self.write_best()
        best = self.state.best_checkpoint
        keep = [] if best is None else [self.folder.checkpoints / best]
        if has_other_runs():  # several runs in one process continue from a step of which all have a checkpoint
            keep += [self.folder.checkpoints / checkpoint_name(step) for step in self.state.scheduled]
        prune_checkpoints(self.folder.checkpoints, self.run.keep_checkpoints, keep)
        return path

    def write_best(self) -> None:
        """Names the best checkpoint in best.json; deletes the file if there is none."""
        if self.state.best_checkpoint is None:
            self.folder.best.unlink(missing_ok=True)
        elif (self.folder.checkpoints / self.state.best_checkpoint).is_dir():
            best = {"checkpoint": self.state.best_checkpoint, "mean_return": self.state.best_return}
            write_json(self.folder.best, best)
