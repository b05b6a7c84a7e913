"""Make the trained agents that come with rlopt: train each, evaluate it, pack its policy into rlopt/hub/trained/.

A run that is there already is not trained again. All together take about fifteen minutes of one core.

    python scripts/make_trained_agents.py --runs runs/trained
    python scripts/make_trained_agents.py --runs runs/trained pendulum
"""

import argparse
import shutil
import sys
from pathlib import Path

from rlopt.cli.main import main as rlopt
from rlopt.hub.pack import CARD, CURVE, pack_run
from rlopt.run_folder import TRAINED

AGENTS = {
    "half-cheetah": "mdpo --preset mujoco/half_cheetah --total-timesteps 1000000 --eval-every 250000",
    "pendulum": "mdpo --env Pendulum-v1 --n-envs 8 --total-timesteps 100000 --eval-every 20000",
    "pendulum-sac": "sac --env Pendulum-v1 --net-arch 64 64 --learning-rate 1e-3 --total-timesteps 8000 "
    "--eval-every 2000 --compile off",
    "pendulum-ailboost": "ailboost --preset dmc/one-demo --net-arch 64 64 --learning-rate 1e-3 --learner-steps 1000 "
    "--policy-steps 1000 --gradient-steps 1 --total-timesteps 25000 --eval-every 5000",
}
"""Name -> the arguments of rlopt train; networks are small, because they are installed with rlopt."""
IMITATED = {"pendulum-ailboost": "pendulum"}
"""Which of them gives an agent its ten demonstrations."""
EPISODES = 100
LARGEST_TOTAL = 2 * 10**6
"""Bytes that all of them may take together."""


def make(name: str, runs: Path) -> int:
    """Trains an agent unless its run is there, evaluates its last checkpoint and packs it; returns an exit code."""
    run, out = runs / name, TRAINED / name
    demos = runs / f"{name}.npz"
    commands = [] if run.exists() else [["train", *AGENTS[name].split(), "--seed", "0", "--run-dir", str(run)]]
    if commands and name in IMITATED:
        commands[0] += ["--demos", str(demos)]
        commands.insert(0, ["demos", "record", f"rlopt/{IMITATED[name]}", "--out", str(demos), "--overwrite"])
    commands.append(["evaluate", str(run), "--episodes", str(EPISODES)])
    for command in commands:
        print(f"$ rlopt {' '.join(command)}", flush=True)
        if code := rlopt(command):
            return code
    shutil.rmtree(out, ignore_errors=True)
    pack_run(run, out)
    for page in (CARD, CURVE):  # for the Hub alone
        (out / page).unlink(missing_ok=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(AGENTS)}")
    parser.add_argument("--runs", type=Path, required=True, help="folder with a run folder for each")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(AGENTS)):
        parser.error(f"{unknown[0]}: known are {', '.join(AGENTS)}")
    for name in arguments.names or AGENTS:
        if code := make(name, arguments.runs):
            return code
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*")) for folder in sorted(TRAINED.iterdir())
    }
    print(*(f"{size:>10,} bytes  {name}" for name, size in sizes.items()), sep="\n")
    print(f"{sum(sizes.values()):>10,} bytes in all, {LARGEST_TOTAL:,} allowed")
    return 0 if sum(sizes.values()) <= LARGEST_TOTAL else 1


if __name__ == "__main__":
    sys.exit(main())
