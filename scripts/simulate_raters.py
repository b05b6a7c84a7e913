"""What several raters are worth: clips of their own, rounds that wait ahead, trust; on functions with known answers.

    python scripts/simulate_raters.py directions    # cosine with the true gradient: the same clips, or own ones
    python scripts/simulate_raters.py minutes       # minutes of people's time to a target with 1, 3 and 8 raters
    python scripts/simulate_raters.py spammers      # cosine with and without trust; how well spammers are found

All use k = 3 of m = 6 clips in d = 22 dimensions, and simulated people with Plackett-Luce noise (``--temperature``).
``minutes`` plays time: a person takes 25 s for a round, give or take 30 %, and drawing a round takes 2 s, one round
after the other; a person who finds no open round waits.
"""

import argparse
import heapq
import statistics

import numpy as np

from rlopt.agents.zo_ranksgd.evolution import RankedCMAES
from rlopt.agents.zo_ranksgd.losses import rank_gradient
from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.agents.zo_ranksgd.parallel import ParallelSearch
from rlopt.feedback.agreement import reliabilities
from rlopt.feedback.ranking import Ranking, total_weights

D, M, K = 22, 6, 3


def judged(values: np.ndarray, k: int, temperature: float, rng: np.random.Generator) -> Ranking:
    """The k lowest of ``values``, seen with Gumbel noise of so many standard deviations."""
    return Ranking.from_values(values + temperature * values.std() * rng.gumbel(size=len(values)), k)


def spam(m: int, k: int, rng: np.random.Generator) -> Ranking:
    return Ranking.from_order(rng.permutation(m)[:k].tolist(), m)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else 0.0


def directions(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    for raters in (1, 3, 8):
        found: dict[str, list[float]] = {"same": [], "own": []}
        for _ in range(args.repeats):
            gradient = rng.standard_normal(D)
            xi = rng.standard_normal((raters, M, D))
            same = [judged(xi[0] @ gradient, K, args.temperature, rng) for _ in range(raters)]
            found["same"].append(cosine(rank_gradient(*total_weights(same, M), xi[0]), gradient))
            own = np.sum([total_weights(judged(x @ gradient, K, args.temperature, rng), M)[0] @ x for x in xi], axis=0)
            found["own"].append(cosine(own, gradient))
        same_clips, own_clips = (np.mean(found[name]) for name in ("same", "own"))
        print(f"{raters} raters: cosine {same_clips:.3f} on the same clips, {own_clips:.3f} on own clips "
              f"(mean of {args.repeats})")  # fmt: skip


def session(kind: str, people: int, ahead: bool, seed: int, temperature: float) -> tuple[float, int, float]:
    """Minutes until f is a twentieth of its start, rounds answered, and seconds that a person waited for a round."""
    rng = np.random.default_rng(seed)
    scales, optimum = np.geomspace(1, 10, D), rng.standard_normal(D)

    def f(points: np.ndarray) -> np.ndarray:
        return np.asarray((scales * (points - optimum) ** 2).sum(axis=-1))

    search = (
        RankedCMAES(np.zeros(D), m=M, k=K, smoothing=0.3, seed=seed)
        if kind == "cmaes"
        else ZORankSGD(np.zeros(D), m=M, k=K, smoothing=0.3, line_search_points=5, line_search_decay=0.3, seed=seed)
    )
    made = ParallelSearch.for_people(search, people) if ahead else ParallelSearch(search, 1, 0)
    goal = 0.05 * float(f(made.point))
    events: list[tuple[float, int, str, int]] = []
    drawn: set[int] = set()
    ready: list[int] = []
    answered: list[int] = []
    idle = dict.fromkeys(range(people), 0.0)
    clock = drawing = waited = 0.0
    rounds = served = 0
    while True:
        for query in made.ask():
            if query.iteration not in drawn:
                drawn.add(query.iteration)
                drawing = max(drawing, clock) + 2.0
                heapq.heappush(events, (drawing, 0, "drawn", query.iteration))
        clock, person, what, number = heapq.heappop(events)
        if what == "drawn":
            ready.append(number)
        else:
            answered.append(number)
            idle[person] = clock
        while ready and idle:
            ready.sort()
            nobody = next(iter(idle))
            since, served = idle.pop(nobody), served + 1
            waited += clock - since if served > people else 0.0  # everybody waits for the first clips
            heapq.heappush(events, (clock + 25.0 * rng.uniform(0.7, 1.3), nobody, "answered", ready.pop(0)))
        if len(answered) >= made.rounds:
            waiting = {query.iteration: query for query in made.ask()}
            taken, answered = answered[: made.rounds], answered[made.rounds :]
            made.tell({n: [judged(f(waiting[n].candidates), waiting[n].k, temperature, rng)] for n in taken})
            rounds += made.rounds
            if f(made.point) < goal or rounds >= 3000:
                return clock / 60, rounds, waited / max(1, served - people)


def minutes(args: argparse.Namespace) -> None:
    for kind, name in (("zo_ranksgd", "ZO-RankSGD"), ("cmaes", "CMA-ES")):
        alone = None
        for people, ahead in ((1, False), (1, True), (3, True), (8, True)):
            runs = [session(kind, people, ahead, seed, args.temperature) for seed in range(args.seeds)]
            median = statistics.median(run[0] for run in runs)
            alone = median if alone is None else alone
            how = "rounds wait ahead" if ahead else "one round at a time"
            print(f"{name}, {people} raters, {how}: {median:.1f} minutes ({median / alone:.2f}), "
                  f"{statistics.median(run[1] for run in runs):.0f} rounds, a rater waits "
                  f"{statistics.mean(run[2] for run in runs):.2f} s a round ({args.seeds} seeds)")  # fmt: skip


def area(good: list[float], bad: list[float]) -> float:
    """Probability that one of the good has more than one of the bad."""
    return float(np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad]))


def spammers(args: argparse.Namespace) -> None:
    """Every rater answers ``--rounds`` rounds on own clips, and every fifth one a second time, later."""
    rng = np.random.default_rng(0)
    for honest, bad in ((1, 2), (7, 3)):
        found: dict[str, list[float]] = {name: [] for name in ("alike", "trusted", "honest alone")}
        areas = []
        for _ in range(args.repeats // 10):
            gradient = rng.standard_normal(D)
            xi = rng.standard_normal((honest + bad, args.rounds, M, D))
            seen, weights = [], np.zeros((honest + bad, args.rounds, M))
            for rater in range(honest + bad):
                for number in range(args.rounds):
                    given = [
                        judged(xi[rater, number] @ gradient, K, args.temperature, rng)
                        if rater < honest
                        else spam(M, K, rng)
                        for _ in range(2 if number % 5 == 4 else 1)
                    ]
                    seen.append([(rater, (each.tiers, each.unranked)) for each in given])
                    weights[rater, number] = given[0].edge_weights(M)[0]
            trust = np.array([each.trust for _, each in sorted(reliabilities(seen).items())])
            latest = np.einsum("rnm,rnmd->rd", weights[:, -3:], xi[:, -3:])  # three rounds of each rater
            found["alike"].append(cosine(latest.sum(axis=0), gradient))
            found["trusted"].append(cosine(trust @ latest, gradient))
            found["honest alone"].append(cosine(latest[:honest].sum(axis=0), gradient))
            areas.append(area(list(trust[:honest]), list(trust[honest:])))
        means = {name: float(np.mean(values)) for name, values in found.items()}
        print(f"{honest} honest, {bad} spammers, {args.rounds} rounds each: cosine of the next 3 rounds "
              f"{means['alike']:.3f} all alike, {means['trusted']:.3f} by trust, {means['honest alone']:.3f} the "
              f"honest alone; area under the curve of detection {np.mean(areas):.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("directions", "minutes", "spammers"))
    parser.add_argument("--temperature", type=float, default=0.2, help="noise of people, in deviations (default .2)")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of minutes (default 20)")
    parser.add_argument("--repeats", type=int, default=1000, help="repeats of the others (default 1000)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each rater among spammers (default 20)")
    args = parser.parse_args()
    {"directions": directions, "minutes": minutes, "spammers": spammers}[args.what](args)


if __name__ == "__main__":
    main()
