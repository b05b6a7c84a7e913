"""Environments whose next step depends on something that their observations do not show."""

import enum
import functools
import hashlib
import itertools
import random
import tempfile
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces, wrappers

CLASSES = {}
"""Environments that can be restored exactly, by name."""
UNREADABLE = {}
"""Environments with a part that Python cannot read."""


class Base(gymnasium.Env):
    """A drifting point whose reward is ``bonus()``; its episodes have 9 to 14 steps, or as many as the limit says."""

    def __init_subclass__(cls, unreadable=False):
        if cls.__module__ == __name__:  # others are of one test alone
            (UNREADABLE if unreadable else CLASSES)[cls.__name__] = cls

    def __init__(self):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x, self.t, self.length = 0.0, 0, 0
        self.prepare()

    def prepare(self):
        pass

    def begin(self, seed):
        pass

    def bonus(self):
        return 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.uniform(-1, 1)), 0
        self.length = int(self.np_random.integers(9, 15))
        self.begin(seed)
        return np.array([self.x, 0.0]), {}

    def step(self, action):
        self.t += 1
        self.x += 0.1 * float(action[0])
        return np.array([self.x, 0.01 * self.t]), float(self.bonus()) - abs(self.x), self.t >= self.length, False, {}


class OwnNumpy(Base):
    def bonus(self):
        return self.np_random.normal()


class GlobalPython(Base):
    def bonus(self):
        return random.random()


class GlobalNumpy(Base):
    def bonus(self):
        return np.random.rand()


class GlobalTorch(Base):
    def bonus(self):
        return torch.rand(())


class PythonRandom(Base):
    def prepare(self):
        self.rng = random.Random(4)

    def begin(self, seed):
        self.fault = self.rng.randint(3, 9)
        self.rng.gauss(0, 1)  # keeps a second number for the next call

    def bonus(self):
        return self.rng.gauss(0, 1) if self.t > self.fault else 0.0


class Engine:
    def __init__(self, rng):
        self.rng = rng


class NestedGenerator(Base):
    def prepare(self):
        self.engine = Engine(np.random.default_rng(1))

    def begin(self, seed):
        if seed is not None:
            self.engine.rng = np.random.default_rng(seed)
        self.fault = int(self.engine.rng.integers(3, 9))

    def bonus(self):
        return -5.0 * (self.t >= self.fault)


class LegacyGeneratorInDict(Base):
    def prepare(self):
        self.parts = {"noise": {"rng": np.random.RandomState(3)}}

    def bonus(self):
        return self.parts["noise"]["rng"].randn()


class GeneratorsInList(Base):
    def prepare(self):
        bits = (np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM)
        self.rngs = [np.random.Generator(kind(7)) for kind in bits]

    def bonus(self):
        return sum(rng.random(dtype=np.float32) for rng in self.rngs)


class SpawnedGenerators(Base):
    def prepare(self):
        self.root = np.random.default_rng(5)

    def begin(self, seed):
        self.rng = self.root.spawn(1)[0]

    def bonus(self):
        return self.rng.random()


class SharedGenerator(Base):
    def prepare(self):
        rng = np.random.default_rng(6)
        self.left, self.right = Engine(rng), Engine(rng)

    def bonus(self):
        return self.left.rng.random() - 2.0 * self.right.rng.random()


class TorchGenerator(Base):
    def prepare(self):
        self.g = torch.Generator().manual_seed(3)

    def begin(self, seed):
        self.fault = 3 + int(torch.randint(0, 6, (1,), generator=self.g))

    def bonus(self):
        return -1.0 * (self.t >= self.fault)


class SeedsOfEpisodes(Base):
    def prepare(self):
        self.seeds = np.random.SeedSequence(9)

    def begin(self, seed):
        self.rng = np.random.default_rng(self.seeds.spawn(1)[0])

    def bonus(self):
        return self.rng.random()


class Curriculum(Base):
    def prepare(self):
        self.episodes = 0

    def begin(self, seed):
        self.episodes += 1

    def bonus(self):
        return -(self.episodes // 3)


class Annealed(Base):
    def prepare(self):
        self.total = 0

    def bonus(self):
        self.total += 1
        return 1.0 if self.total < 50 else 0.0


class TableCursor(Base):
    def prepare(self):
        self.table, self.cursor = np.sin(np.arange(500) * 0.37), 0

    def bonus(self):
        self.cursor += 1
        return self.table[self.cursor]


class LargeTable(Base):
    def prepare(self):
        self.table, self.cursor = np.sin(np.arange(140_000) * 0.37), 0

    def bonus(self):
        self.cursor += 1
        return self.table[self.cursor]


class History(Base):
    def prepare(self):
        self.past = deque(maxlen=7)

    def bonus(self):
        self.past.append(self.x)
        return sum(self.past) + len(self.past)


class Inventory(Base):
    def prepare(self):
        self.items = {"gold": [], 3: {"a": 1}, (1, 2): "tuple"}

    def bonus(self):
        self.items["gold"].append(self.t)
        self.items[3][f"x{self.t}"] = len(self.items["gold"])
        return len(self.items["gold"]) + len(self.items[3])


class Visited(Base):
    def prepare(self):
        self.seen = set()

    def bonus(self):
        place = (round(self.x, 1), self.t)
        new = place not in self.seen
        self.seen.add(place)
        return float(new)


class Particle:
    def __init__(self, position):
        self.position, self.age = position, 0


class GrowingParticles(Base):
    def prepare(self):
        self.particles = [Particle(0.0)]

    def bonus(self):
        for particle in self.particles:
            particle.age += 1
        if self.t % 4 == 0:
            self.particles.append(Particle(self.x))
        return sum(p.position * p.age for p in self.particles)


class Ring(Base):
    def prepare(self):
        first, second = Particle(1.0), Particle(2.0)
        first.next, second.next = second, first
        self.at, self.env = first, self

    def bonus(self):
        self.at = self.at.next
        self.at.age += 1
        return self.at.position * self.at.age


class LongChain(Base):
    def prepare(self):
        self.chain = None

    def bonus(self):
        for _ in range(15):
            link = Particle(self.x)
            link.next, self.chain = self.chain, link
        depth, link = 0, self.chain
        while link is not None:
            depth, link = depth + 1, link.next
        return depth


class Slotted:
    __slots__ = ("__hidden", "count")

    def __init__(self):
        self.count, self.__hidden = 0, 1.0

    def move(self):
        self.count += 1
        self.__hidden *= 1.01
        return self.__hidden * self.count


class Slots(Base):
    def prepare(self):
        self.part = Slotted()

    def bonus(self):
        return self.part.move()


@dataclass
class Weather:
    rain: float = 0.0
    days: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    value: float = 0.0


class DataClasses(Base):
    def prepare(self):
        self.weather, self.frozen = Weather(), Frozen()

    def bonus(self):
        self.weather.rain += 0.1
        self.weather.days.append(self.t)
        self.frozen = Frozen(self.frozen.value + 1.0)
        return self.weather.rain + len(self.weather.days) + self.frozen.value


Pair = namedtuple("Pair", "left right")


class NamedTuples(Base):
    def prepare(self):
        self.pair = Pair(0, [])

    def bonus(self):
        self.pair = self.pair._replace(left=self.pair.left + 1)
        self.pair.right.append(1)
        return self.pair.left + len(self.pair.right)


class Phase(enum.Enum):
    CALM = 1
    STORM = 2


class EnumPhase(Base):
    def prepare(self):
        self.phase = Phase.CALM

    def begin(self, seed):
        self.phase = Phase.STORM if self.phase is Phase.CALM else Phase.CALM

    def bonus(self):
        return 1.0 if self.phase is Phase.STORM else 0.0


class MethodPhase(Base):
    def prepare(self):
        self.act = self.calm

    def calm(self):
        return 0.0

    def storm(self):
        return 1.0

    def begin(self, seed):
        self.act = self.storm if self.act == self.calm else self.calm

    def bonus(self):
        return self.act()


class Closure(Base):
    def prepare(self):
        count = 0

        def counter():
            nonlocal count
            count += 1
            return count

        self.counter = counter

    def bonus(self):
        return self.counter()


def appended(items, item):
    items.append(item)
    return len(items)


class Partial(Base):
    def prepare(self):
        self.append = functools.partial(appended, [])

    def bonus(self):
        return self.append(self.t)


class Counting(Base):
    def prepare(self):
        self.numbers = itertools.count(3, 2)

    def bonus(self):
        return next(self.numbers)


class BegunIterator(Base):
    def prepare(self):
        self.numbers = iter([float(i * i % 11) for i in range(300)])

    def bonus(self):
        return next(self.numbers)


class ClassCounter(Base):
    made = 0

    def bonus(self):
        ClassCounter.made += 1
        return ClassCounter.made

    @staticmethod
    def new_process():
        ClassCounter.made = 0


MODULE_COUNT = 0


class ModuleCounter(Base):
    def bonus(self):
        global MODULE_COUNT
        MODULE_COUNT += 1
        return MODULE_COUNT

    @staticmethod
    def new_process():
        globals()["MODULE_COUNT"] = 0


MODULE_RNG = np.random.default_rng(2)


class ModuleGenerator(Base):
    def bonus(self):
        return MODULE_RNG.random()

    @staticmethod
    def new_process():
        MODULE_RNG.bit_generator.state = np.random.default_rng(2).bit_generator.state


def counted():
    counted.calls += 1
    return counted.calls


counted.calls = 0


class FunctionAttribute(Base):
    def bonus(self):
        return counted()

    @staticmethod
    def new_process():
        counted.calls = 0


def remembered(item, memory=[]):  # noqa: B006
    memory.append(item)
    return len(memory)


class MutableDefault(Base):
    def bonus(self):
        return remembered(self.t)

    @staticmethod
    def new_process():
        remembered.__defaults__[0].clear()


LEVEL = Particle(1.0)


class SharedLevel(Base):
    """Every environment raises the level of all."""

    def prepare(self):
        self.level = LEVEL

    def begin(self, seed):
        self.level.age += 1

    def bonus(self):
        return self.level.age

    @staticmethod
    def new_process():
        LEVEL.age = 0


class FromConstants(Base):
    """In the beginning of an episode attributes are a constant's, later they are its own."""

    START, TABLE = np.zeros(2), {"speeds": [0.0, 0.0]}

    def begin(self, seed):
        self.position, self.speeds = self.START, self.TABLE["speeds"]

    def bonus(self):
        self.position = self.position + self.x
        self.speeds = [speed + self.x for speed in self.speeds]
        return self.position.sum() + sum(self.speeds)


class LateAlias(Base):
    """Takes what belongs to the module in a step, and changes it for all."""

    level = None

    def bonus(self):
        if self.t == 5:
            self.level = LEVEL
        if self.level is not None:
            self.level.age += 1
        return LEVEL.age

    @staticmethod
    def new_process():
        LEVEL.age = 0


class Views(Base):
    def prepare(self):
        self.whole = np.zeros(6)
        self.tail = self.whole[3:]

    def bonus(self):
        self.tail += self.x
        return self.whole.sum()


class CopiedView(Base):
    """In the beginning a view, later an array of its own."""

    def prepare(self):
        self.now = np.zeros(3)
        self.before = self.now[:]

    def bonus(self):
        self.before = self.now.copy()
        self.now += self.x
        return (self.now - self.before).sum() + self.before.sum()


class ObjectArray(Base):
    def prepare(self):
        self.grid = np.empty((2, 2), object)
        self.grid[:] = None

    def bonus(self):
        place = self.t % 2, self.t // 2 % 2
        self.grid[place] = (self.grid[place] or 0) + 1
        return sum(value or 0 for value in self.grid.flat)


class OddValues(Base):
    def prepare(self):
        self.text, self.raw, self.z, self.huge = "", b"", 1j, 3**50
        self.words = np.array(["ab", "cd"])
        self.past, self.frozen, self.buffer = range(1), frozenset(), bytearray(2)

    def bonus(self):
        self.text += "ä"
        self.raw += bytes([self.t])
        self.z *= 1.1j
        self.huge += self.t
        self.words[self.t % 2] = self.text[-2:]
        self.past = range(self.past.stop + 1)
        self.frozen |= {self.t}
        self.buffer[0] = self.t
        held = len(self.text) + len(self.raw) + self.z.real + float(self.huge % 97) + len("".join(self.words))
        return held + len(self.past) + len(self.frozen) + self.buffer[0]


class TorchModule(Base):
    def prepare(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net, self.memory = torch.nn.GRUCell(1, 3), torch.zeros(1, 3)

    def bonus(self):
        with torch.no_grad():
            self.memory = self.net(torch.tensor([[self.x]], dtype=torch.float32), self.memory)
            self.net.bias_ih += 0.01
        return self.memory.sum()


class Dictionaries(Base):
    def prepare(self):
        self.seen, self.rows, self.order = Counter(), defaultdict(list), OrderedDict()

    def bonus(self):
        self.seen[self.t] += 1
        self.rows[self.t % 3].append(self.t)
        self.order[self.t % 5] = self.t
        self.order.move_to_end(self.t % 5, last=self.t % 2 == 0)
        return self.seen.total() + sum(map(len, self.rows.values())) + next(iter(self.order.values()))


class Private(Base):
    def prepare(self):
        self.__count = 0

    @property
    def count(self):
        raise AssertionError("a property was asked")

    def bonus(self):
        self.__count += 1
        return self.__count


class Late(Base):
    """An attribute that appears in a step, and one that goes."""

    def begin(self, seed):
        self.gone = 1.0

    def bonus(self):
        if self.t == 5 and not hasattr(self, "late"):
            self.late = {"value": 0.5}
        if hasattr(self, "late"):
            self.late["value"] += 1.0
        if self.t == 3:
            del self.gone
        return getattr(self, "late", {}).get("value", 0.0) + hasattr(self, "gone")


hash_of = hash


class Hashed(Base):
    def bonus(self):
        return hash_of("a text") % 7


class OwnState(Base):
    def prepare(self):
        self.total = 0

    def bonus(self):
        self.total += 1
        return self.np_random.normal() + self.total

    def get_state(self):
        return {"x": self.x, "t": self.t, "length": self.length, "total": self.total}

    def set_state(self, state):
        self.x, self.t, self.length, self.total = (state[name] for name in ("x", "t", "length", "total"))


class Clock(Base, unreadable=True):
    def bonus(self):
        return time.perf_counter()


class BegunGenerator(Base, unreadable=True):
    def prepare(self):
        self.numbers = (float(i) for i in range(10_000))

    def bonus(self):
        return next(self.numbers)


class InC(Base, unreadable=True):
    def prepare(self):
        self.state = hashlib.sha256()

    def bonus(self):
        self.state.update(b"step")
        return self.state.digest()[0]


class OpenFile(Base, unreadable=True):
    def prepare(self):
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.file.write("".join(f"{i}\n" for i in range(10_000)))
        self.file.seek(0)

    def bonus(self):
        return float(self.file.readline())


class CounterFile(Base, unreadable=True):
    path = Path(tempfile.gettempdir()) / f"rlopt-counter-{random.SystemRandom().random()}"

    def bonus(self):
        with open(self.path, "ab") as file:
            file.write(b"x")
        return self.path.stat().st_size


class RareInC(Base, unreadable=True):
    """What is hidden in C shows after 600 steps only."""

    def prepare(self):
        self.rounds = itertools.cycle([0.0] * 600 + [1.0])

    def bonus(self):
        return next(self.rounds)


class ForgetfulOwnState(OwnState, unreadable=True):
    def bonus(self):
        self.total += 1
        return 1.0 if self.total < 500 else 0.0

    def get_state(self):
        return {"x": self.x, "t": self.t, "length": self.length, "total": 0}


WRAPPERS = {
    "none": lambda env: env,
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "FrameStackObservation, reset": lambda env: wrappers.FrameStackObservation(env, 3, padding_type="reset"),
    "NormalizeObservation": wrappers.NormalizeObservation,
    "NormalizeReward": wrappers.NormalizeReward,
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "TimeAwareObservation": lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 20)),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.4, (2, 4)),
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 2),
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 8),
    "MaxAndSkipObservation": lambda env: wrappers.MaxAndSkipObservation(env, 2),
    "RepeatAction": lambda env: wrappers.RepeatAction(env, 2),
    "Autoreset": wrappers.Autoreset,
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.float32),
    "several": lambda env: wrappers.NormalizeReward(
        wrappers.FrameStackObservation(wrappers.NormalizeObservation(wrappers.StickyAction(env, 0.3)), 2)
    ),
}


def make(name, wrapper="none"):
    return WRAPPERS[wrapper](({**CLASSES, **UNREADABLE})[name]())


gymnasium.register("hidden/State-v0", entry_point=make, max_episode_steps=30)
