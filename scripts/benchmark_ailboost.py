"""Speed of whole imitation training: AILBoost, and the same loop from Stable-Baselines3's SAC and plain torch.

Both play the rounds of the preset dmc/one-demo: 500 transitions of the policy as it is (``--phase-steps``), 100 steps
of the discriminator (64-64, batches of 512 and 512, gradient penalty 10), as many transitions of training with two
gradient steps each (256-256, batch 256; ``--gradient-steps``) on rewards that are computed when a batch is drawn. Each
contestant lives in a process of its own; they work in turn, and ratios are taken within a round.

    python scripts/benchmark_ailboost.py                     # this machine's CPU
    python scripts/benchmark_ailboost.py --device cuda
"""

from typing import Any

import numpy as np
import torch
from contestants import compete, race_parser, serve, table, worker_command, write_result
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from torch import nn

DISCRIMINATOR_STEPS, BATCH, PENALTY, NEW_WEIGHT = 100, 512, 10.0, 0.05
CONTESTANTS = {
    "rlopt": "compiled",
    "rlopt_eager": "not compiled",
    "sb3_loop": "the same rounds with Stable-Baselines3's SAC and a discriminator in plain torch",
}


class RelabellingBuffer(ReplayBuffer):
    """Stable-Baselines3's replay, whose rewards are the discriminator's."""

    discriminator: nn.Module

    def sample(self, batch_size: int, env: Any = None) -> Any:
        batch = super().sample(batch_size, env)
        with torch.no_grad():
            inputs = torch.cat([batch.observations, batch.actions], dim=1)
            return batch._replace(rewards=self.discriminator(inputs))


class EagerLoop(SAC):
    """AILBoost's rounds around SAC: as one would write them first."""

    def begin(self, observations: np.ndarray, actions: np.ndarray, phase_steps: int) -> None:
        """Takes the expert's rows."""
        self.phase_steps = phase_steps
        self.expert = torch.as_tensor(np.concatenate([observations, actions], axis=1), device=self.device)
        layers: list[nn.Module] = [nn.Linear(self.expert.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
        self.discriminator = nn.Sequential(*layers, nn.Linear(64, 1), nn.Tanh()).to(self.device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=3e-4)
        assert isinstance(self.replay_buffer, RelabellingBuffer)
        self.replay_buffer.discriminator = self.discriminator
        self.learners: list[dict[str, torch.Tensor]] = []
        self.row_weights: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.in_rollout, self.phase_began = True, self.num_timesteps

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        if not self.in_rollout:
            super().train(gradient_steps, batch_size)
        if self.num_timesteps - self.phase_began < self.phase_steps:
            return
        if self.in_rollout:
            self.add_learner()
            self.train_discriminator()
        self.in_rollout, self.phase_began = not self.in_rollout, self.num_timesteps

    def add_learner(self) -> None:
        self.learners.append({name: value.clone() for name, value in self.actor.state_dict().items()})
        assert self.replay_buffer is not None
        self.rows.append(np.arange(self.replay_buffer.pos - self.phase_steps, self.replay_buffer.pos))
        first = not self.row_weights
        self.row_weights = [(1 - NEW_WEIGHT) * weights for weights in self.row_weights]
        self.row_weights.append(np.full(self.phase_steps, (1.0 if first else NEW_WEIGHT) / self.phase_steps))

    def train_discriminator(self) -> None:
        rows, weights = np.concatenate(self.rows), np.concatenate(self.row_weights)
        buffer: Any = self.replay_buffer
        for _ in range(DISCRIMINATOR_STEPS):
            chosen = np.random.choice(rows, BATCH, p=weights / weights.sum())
            parts = np.concatenate([buffer.observations[chosen, 0], buffer.actions[chosen, 0]], axis=1)
            policy = torch.as_tensor(parts, device=self.device)
            expert = self.expert[torch.randint(len(self.expert), (BATCH,), device=self.device)]
            mix = torch.rand(BATCH, 1, device=self.device)
            between = (mix * expert + (1 - mix) * policy).requires_grad_()
            (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
            penalty = (gradient.norm(dim=1) - 1).square().mean()
            loss = torch.exp(-self.discriminator(expert)).mean() + self.discriminator(policy).mean()
            self.optimizer.zero_grad()
            (loss + PENALTY * penalty).backward()
            self.optimizer.step()


def build(name: str, task: str, device: str, gradient_steps: int, phase_steps: int) -> Any:
    """A contestant's model, 256-256 and batches of 256, which has begun to train."""
    import rlopt
    from rlopt.data import load_demonstrations

    demonstrations = load_demonstrations(f"dmc/{task}").trajectories(1)
    repeat = demonstrations.metadata.action_repeat
    env = rlopt.make_env(demonstrations.metadata.env, seed=0, backend="gymnasium", action_repeat=repeat)
    settings: dict[str, Any] = {"seed": 0, "learning_starts": 2 * phase_steps, "buffer_size": 200_000, "device": device}
    settings["gradient_steps"] = gradient_steps
    if name == "sb3_loop":
        loop = EagerLoop("MlpPolicy", env, replay_buffer_class=RelabellingBuffer, **settings)
        loop.begin(demonstrations.observations, demonstrations.actions, phase_steps)  # type: ignore[arg-type]
        return loop
    settings |= {"compile": "on" if name == "rlopt" else "off", "weighting": "constant", "absorbing": False}
    settings |= {"learner_steps": phase_steps, "policy_steps": phase_steps}
    return rlopt.AILBoost("MlpPolicy", env, demonstrations, **settings)


def work(name: str, task: str, device: str, threads: int, gradient_steps: int, phase_steps: int) -> None:
    """Serves one contestant, after a round that compiles and makes what is made at the first call."""
    torch.set_num_threads(threads)
    model = build(name, task, device, gradient_steps, phase_steps)
    model.learn(4 * phase_steps)

    def training(count: int) -> int:
        model.learn(count, reset_num_timesteps=False)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return count

    serve({"training": training})


def main() -> None:
    parser = race_parser(__doc__, CONTESTANTS)
    parser.add_argument("--task", default="cartpole-swingup")
    parser.add_argument("--boosting-rounds", type=int, default=2, help="in each round")
    phases = "transitions of each half of a boosting round, whole episodes of 500 at best"
    parser.add_argument("--phase-steps", type=int, default=500, help=phases)
    parser.add_argument("--gradient-steps", type=int, default=2, help="for each transition of training")
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.task, args.device, args.threads, args.gradient_steps, args.phase_steps)
        return
    commands = {name: worker_command(name) for name in CONTESTANTS}
    rates = compete(commands, {"training": 2 * args.phase_steps * args.boosting_rounds}, args.rounds)
    print(f"{args.task}, {args.device}, {args.threads} threads, {args.rounds} rounds; environment steps a second")
    print(table(rates, "rlopt"))
    print("\n".join(f"  {name}: {what}" for name, what in CONTESTANTS.items()))
    write_result(args, rates=rates)


if __name__ == "__main__":
    main()
