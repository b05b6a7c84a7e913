"""Speed from pixels: frames per second of a whole AILBoost training, and of its parts, on the CPU and on a GPU.

The settings are those of the preset dmc/pixels: rendered images of 84 x 84, three frames, batches of 256, n-step
returns with rewards computed anew. A round of boosting is scaled down by ``--share``, all its parts alike, so that a
training of a few rounds has the proportions of a real one. ``rlopt`` convolves every batch once, as it does by itself;
in ``apart`` every network convolves by itself, as Stable-Baselines3's do. A frame is a control step of the simulator:
two an action. Nothing is compiled, as in a run of the preset's length.

    python scripts/benchmark_pixels.py --rounds 3
    python scripts/benchmark_pixels.py --rounds 5 --share 0.1 --updates 200      # with a GPU

Demonstrations are of a random policy: whose they are does not change how long a step takes. Without a GPU the script
says that its row was not measured.
"""

import argparse
from typing import Any

import numpy as np
import torch
from contestants import compete, race_parser, serve, table, worker_command, write_result

CONTESTANTS = {"rlopt": "the convolutions of a batch once", "apart": "by every network"}
WARM_UP = 300


class RandomPolicy:
    """Uniform actions."""

    def __init__(self, action_space: Any) -> None:
        self.action_space, self.rng = action_space, np.random.default_rng(0)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
        shape = (len(observation), *self.action_space.shape)
        return self.rng.uniform(self.action_space.low, self.action_space.high, shape).astype(np.float32), None


def preset(share: float) -> dict[str, Any]:
    """The preset's settings, its rounds scaled by ``share``."""
    from rlopt.settings.presets import load_preset

    values = load_preset("ailboost", "dmc/pixels")
    for name in ("learner_steps", "policy_steps", "discriminator_steps"):
        values[name] = max(round(values[name] * share), 1)
    return values | {"learning_starts": WARM_UP, "buffer_size": 10_000, "demos": "random", "compile": "off"}


def build(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model, with some transitions in its replay, and the settings of its environment."""
    import rlopt
    from rlopt.agents.ailboost.config import AILBoostConfig
    from rlopt.collect import record_demonstrations
    from rlopt.envs.settings import EnvSettings
    from rlopt.settings.fields import from_mapping
    from rlopt.settings.presets import split_settings

    run, own = split_settings(preset(args.share), AILBoostConfig, "dmc/pixels")
    config, frames = from_mapping(AILBoostConfig, own, "dmc/pixels"), run["frame_stack"]
    # An improvement is a whole number of episodes, as it is in the preset.
    episode = min(config.policy_steps, 500)
    settings = EnvSettings(
        id=args.env,
        action_repeat=run["action_repeat"],
        image_size=run["image_size"],
        max_episode_steps=run["action_repeat"] * episode,
    )
    policy = RandomPolicy(rlopt.make_env(**settings.as_dict()).action_space)
    n_demonstrations = max(round(10 * args.share), 1)
    shown = record_demonstrations(policy, settings, n_demonstrations, pixels=True).from_pixels(frames)
    seen = settings.as_dict() | {"from_pixels": True, "frame_stack": frames}
    arguments = config.algorithm_kwargs() | {"replay_buffer_kwargs": {"frames": frames}}
    env = rlopt.make_env(**seen)
    model = rlopt.AILBoost("CnnPolicy", env, shown, seed=0, device=args.device, **arguments)
    model.learn(WARM_UP + 1)
    return model, seen


def work(name: str, args: argparse.Namespace) -> None:
    """Serves one contestant."""
    import rlopt

    torch.set_num_threads(args.threads)
    model, settings = build(args)
    wait = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    if name == "apart":
        model._convolves_once = lambda: False
    alone = rlopt.make_env(**settings)
    alone.reset()
    rng = np.random.default_rng(0)

    def rendering(count: int) -> int:
        for _ in range(count):
            alone.step(rng.uniform(-1, 1, (1, *model.action_space.shape)).astype(np.float32))
        return count * settings["action_repeat"]

    def updates(count: int) -> int:
        rlopt.OffPolicyMDPO.train(model, count, model.batch_size)
        wait()
        return count

    def training(count: int) -> int:
        before, last = model.num_timesteps, model.rounds.n_rounds + count
        model.boundary_hook = lambda learner: learner.rounds.n_rounds < last
        model.learn(10**9, reset_num_timesteps=False, log_interval=None)
        wait()
        return (model.num_timesteps - before) * settings["action_repeat"]

    training(1)  # to the end of a learner's rollout, where the rounds that are measured begin
    updates(1)
    serve({"rendering": rendering, "updates": updates, "training": training})


def main() -> None:
    parser = race_parser(__doc__, CONTESTANTS, rounds=3)
    parser.set_defaults(device=None)
    parser.add_argument("--env", default="dm_control/walker-walk")
    parser.add_argument("--share", type=float, default=0.01, help="of the preset's round of boosting")
    parser.add_argument("--steps", type=int, default=100, help="environment steps a round, rendering alone")
    parser.add_argument("--updates", type=int, default=3, help="gradient steps a round")
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args)
        return

    rates = {}
    for device in [args.device] if args.device else ["cpu", "cuda"]:
        if device.startswith("cuda") and not torch.cuda.is_available():
            print(f"{device}: not measured, there is no GPU here")
            continue
        commands = {name: worker_command(name, "--device", device) for name in CONTESTANTS}
        counts = {"rendering": args.steps, "updates": args.updates, "training": 1}
        rates[device] = compete(commands, counts, args.rounds)
        print(f"{device} (rendering and training: frames per second; updates: per second)")
        print(table(rates[device], "rlopt"))
    write_result(args, **rates)


if __name__ == "__main__":
    main()
