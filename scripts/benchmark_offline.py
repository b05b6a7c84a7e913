"""Offline speed: gradient steps of TD3+BC per second, ours and a plain PyTorch loop of the same sizes, in one run.

The peer is written the way CORL's users run it: actor, critics and their target networks as separate modules, autograd,
``torch.optim.Adam``, the data as tensors on the device, indices from numpy, each loss read after each step. Each
contestant lives in a process of its own; they work in turn, round after round. Networks 256-256, batches of 256, data
of HalfCheetah's sizes.

    python scripts/benchmark_offline.py --rounds 10
    python scripts/benchmark_offline.py --rounds 10 --hidden 128       # the networks of GuDA's experiments
    python scripts/benchmark_offline.py --device cuda --updates 5000 --whole 1000000

``--whole N`` also trains ours for N gradient steps and prints how long it took, compilation included.
"""

import argparse
import copy
import time
from typing import Any

import numpy as np
import torch
from contestants import compete, race_parser, serve, table, worker_command, write_result
from torch import Tensor, nn
from torch.nn import functional as F

CONTESTANTS = {"rlopt": "compiled", "rlopt_eager": "not compiled", "plain": "the loop of plain PyTorch"}
OBSERVATIONS, ACTIONS, BATCH = 17, 6, 256


def arrays(transitions: int) -> dict[str, np.ndarray]:
    """Random transitions; what the numbers are does not change how long a step takes."""
    rng = np.random.default_rng(0)
    ends = np.zeros(transitions, bool)
    ends[999::1000] = ends[-1] = True
    return {
        "observations": rng.normal(size=(transitions, OBSERVATIONS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (transitions, ACTIONS)).astype(np.float32),
        "rewards": rng.normal(size=transitions).astype(np.float32),
        "next_observations": rng.normal(size=(transitions, OBSERVATIONS)).astype(np.float32),
        "discounts": np.ones(transitions, np.float32),
        "episode_ends": ends,
    }


class PlainTD3BC:
    """TD3+BC (arXiv 2106.06860) as a loop over modules."""

    def __init__(self, data: dict[str, np.ndarray], device: str, hidden: list[int]) -> None:
        observations = data["observations"]
        mean, std = observations.mean(0), observations.std(0) + 1e-3
        normal = {name: (data[name] - mean) / std for name in ("observations", "next_observations")}
        tensors = {**data, **normal}
        self.data = {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in tensors.items()}
        self.actor = network(OBSERVATIONS, ACTIONS, hidden, nn.Tanh()).to(device)
        self.critics = [network(OBSERVATIONS + ACTIONS, 1, hidden).to(device) for _ in range(2)]
        self.slow_actor, self.slow_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_adams = [torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in self.critics]
        self.steps = 0
        self.log: dict[str, float] = {}

    def step(self) -> None:
        self.steps += 1
        rows = np.random.randint(0, len(self.data["rewards"]), size=BATCH)
        observations, actions, following = (
            self.data[name][rows] for name in ("observations", "actions", "next_observations")
        )
        rewards, discounts = self.data["rewards"][rows].unsqueeze(1), self.data["discounts"][rows].unsqueeze(1)
        with torch.no_grad():
            noise = (torch.randn_like(actions) * 0.2).clamp(-0.5, 0.5)
            next_actions = (self.slow_actor(following) + noise).clamp(-1, 1)
            inputs = torch.cat([following, next_actions], 1)
            next_values = torch.min(self.slow_critics[0](inputs), self.slow_critics[1](inputs))
            targets = rewards + discounts * 0.99 * next_values
        inputs = torch.cat([observations, actions], 1)
        critic_loss: Tensor = sum(F.mse_loss(critic(inputs), targets) for critic in self.critics)  # type: ignore
        self.log["critic_loss"] = critic_loss.item()
        for adam in self.critic_adams:
            adam.zero_grad()
        critic_loss.backward()
        for adam in self.critic_adams:
            adam.step()
        if self.steps % 2 == 0:
            self.actor_step(observations, actions)

    def actor_step(self, observations: Tensor, actions: Tensor) -> None:
        own = self.actor(observations)
        values = self.critics[0](torch.cat([observations, own], 1))
        actor_loss = -2.5 / values.abs().mean().detach() * values.mean() + F.mse_loss(own, actions)
        self.log["actor_loss"] = actor_loss.item()
        self.actor_adam.zero_grad()
        actor_loss.backward()
        self.actor_adam.step()
        pairs = [(self.slow_actor, self.actor), *zip(self.slow_critics, self.critics, strict=True)]
        for slow, fast in pairs:
            for target, source in zip(slow.parameters(), fast.parameters(), strict=True):
                target.data.copy_(0.005 * source.data + 0.995 * target.data)


def network(inputs: int, outputs: int, hidden: list[int], *last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs), *last)


def build(args: argparse.Namespace, compile: Any) -> Any:
    """Our learner at its defaults."""
    import rlopt
    from rlopt.data import Dataset, Metadata

    dataset = Dataset(**arrays(args.transitions), metadata=Metadata(env="HalfCheetah-v5"))
    nets = {"net_arch": args.hidden}
    return rlopt.TD3BC("MlpPolicy", dataset, seed=0, device=args.device, compile=compile, policy_kwargs=nets)


def work(name: str, args: argparse.Namespace) -> None:
    """Serves one contestant."""
    torch.set_num_threads(args.threads)
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    if name == "plain":
        peer = PlainTD3BC(arrays(args.transitions), args.device, args.hidden)
    else:
        model = build(args, "off" if name == "rlopt_eager" else "on")

    def updates(count: int) -> int:
        if name == "plain":
            for _ in range(count):
                peer.step()
        else:
            model.learn(count, reset_num_timesteps=False, log_interval=None)
        wait()
        return count

    updates(20)  # compilation, and what is made at the first steps
    serve({"updates": updates})


def whole_run(args: argparse.Namespace) -> float:
    """Seconds of one long training of ours, compilation and everything else included."""
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model = build(args, "auto")
    model.learn(args.whole, log_interval=None)
    return time.perf_counter() - start


def main() -> None:
    parser = race_parser(__doc__, CONTESTANTS)
    parser.add_argument("--updates", type=int, default=500, help="gradient steps a round")
    parser.add_argument("--transitions", type=int, default=1_000_000, help="size of the data set")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256], help="widths of the hidden layers")
    parser.add_argument("--whole", type=int, metavar="N", help="also train ours for N steps; --rounds 0 for that alone")
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args)
        return
    rates = compete({name: worker_command(name) for name in CONTESTANTS}, {"updates": args.updates}, args.rounds)
    if args.rounds:
        print(table(rates, "rlopt"))
    result: dict[str, Any] = {"rates": rates}
    if args.whole:
        result["whole_seconds"] = whole_run(args)
        print(f"{args.whole:,} gradient steps in {result['whole_seconds']:.0f} s")
    write_result(args, **result)


if __name__ == "__main__":
    main()
