"""Countdown traces written with a chosen set of behaviors and nothing outside it, from tasks that are solved exactly.

A `Plan` is what one task's traces of all kinds share: attempts that fail, the solution, and the words' seed. So two kinds differ in the
behaviors alone: the failed attempts really fail, checks compare what was computed, a subgoal is the next result of the solution, a step
from the target undoes the solution's last operation.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

from rl import countdown
from rl.countdown import Numbers
from rl.warmstart import in_steps

VERIFICATION, BACKTRACKING, SUBGOAL, BACKWARD = "verification", "backtracking", "subgoal_setting", "backward_chaining"
EVERY = frozenset((VERIFICATION, BACKTRACKING, SUBGOAL, BACKWARD))
PROFILES: dict[str, frozenset[str]] = {
    "all": EVERY,
    "backtracking": frozenset((BACKTRACKING,)),
    "backtracking+verification": frozenset((BACKTRACKING, VERIFICATION)),
    "backtracking+subgoals": frozenset((BACKTRACKING, SUBGOAL)),
    "backtracking+backward": frozenset((BACKTRACKING, BACKWARD)),
    "empty": frozenset(),
    "placeholder": frozenset(),
    "linear": frozenset(),
    "incorrect-all": EVERY,
}
UNDO = {"+": "-", "-": "+", "*": "/", "/": "*"}
FILLER = " ."
LENGTH_TOLERANCE = 0.1


@dataclass(frozen=True)
class Node:
    """An expression: a given number, or two of them joined. `value` is an integer, as the game's rule asks of every result."""

    value: int
    sign: str = ""
    left: "Node | None" = None
    right: "Node | None" = None

    def text(self, outermost: bool = True) -> str:
        """`(4 * 7) - 1`: inner operations in brackets."""
        if self.left is None or self.right is None:
            return str(self.value)
        inner = f"{self.left.text(False)} {self.sign} {self.right.text(False)}"
        return inner if outermost else f"({inner})"

    def first_steps(self) -> list[str]:
        """Only the operations on two given numbers."""
        if self.left is None or self.right is None:
            return []
        if self.left.left is None and self.right.left is None:
            return self.steps()
        return [*self.left.first_steps(), *self.right.first_steps()]

    def steps(self) -> list[str]:
        """`4 * 7 = 28`, `28 - 1 = 27`: one operation each, in the order of computing."""
        if self.left is None or self.right is None:
            return []
        return [*self.left.steps(), *self.right.steps(), f"{self.left.value} {self.sign} {self.right.value} = {self.value}"]


@dataclass(frozen=True)
class Plan:
    """What the traces of one task are made of. The root of `solution` joins a given number to the rest, so that it can be undone;
    `near_miss` is the same with another last operation: it uses the subgoal and misses the target."""

    numbers: Numbers
    target: int
    failures: tuple[Node, ...]
    solution: Node
    near_miss: Node
    seed: str
    max_result: float = inf


def make_plan(numbers: Numbers, target: int, num_failures: int, seed: str, max_result: float = inf, patience: int = 200) -> Plan | None:
    """A plan in which no operation gives more than `max_result`, or None when the target is among the numbers, no solution ends with a
    given number, or failures run out."""
    generator = random.Random(seed)
    if target in numbers:
        return None  # `24 - 7` could then be a step from the target or a step from a given 24
    if max(*numbers, target) > max_result:
        return None
    solution = _random_solution(numbers, target, generator, max_result)
    near_miss = _near_miss(solution, target, generator, max_result) if solution else None
    if solution is None or near_miss is None:
        return None
    failures: dict[str, Node] = {}
    for _ in range(patience):
        if len(failures) == num_failures:
            break
        node = random_node(numbers, generator, max_result)
        if node.value != target and node.text() != near_miss.text():
            failures.setdefault(node.text(), node)
    return Plan(numbers, target, tuple(failures.values()), solution, near_miss, seed, max_result) if len(failures) == num_failures else None


def random_node(numbers: Sequence[int], generator: random.Random, max_result: float = inf) -> Node:
    """A random expression over all numbers (none of them over `max_result`), every result an integer from 0 to `max_result`."""
    while True:
        parts = [Node(number) for number in numbers]
        while len(parts) > 1:
            a, b = (parts.pop(generator.randrange(len(parts))) for _ in range(2))
            results = {"+": a.value + b.value, "*": a.value * b.value}
            if a.value >= b.value:
                results["-"] = a.value - b.value
            if b.value and a.value % b.value == 0:
                results["/"] = a.value // b.value
            fine = sorted(sign for sign, value in results.items() if value <= max_result)
            if not fine:
                break
            sign = generator.choice(fine)
            parts.append(Node(results[sign], sign, a, b))
        else:
            return parts[0]


def _random_solution(numbers: Numbers, target: int, generator: random.Random, max_result: float) -> Node | None:
    """A random solution whose last operation has a given number on one side, and whose other side is an integer from 0 on."""
    choices = []
    for place, leaf in enumerate(numbers):
        rest = tuple(sorted(numbers[:place] + numbers[place + 1 :]))
        for value in countdown.reachable(rest, True):
            if isinstance(value, Fraction) or not 0 <= value <= max_result or value == target:  # a subgoal is not the goal
                continue
            for sign, a, b in (
                ("+", value, leaf),
                ("*", value, leaf),
                ("-", value, leaf),
                ("/", value, leaf),
                ("-", leaf, value),
                ("/", leaf, value),
            ):
                if _apply(sign, a, b) == target:
                    choices.append((sign, leaf, value, rest, a is value))
    generator.shuffle(choices)
    for sign, leaf, value, rest, rest_first in choices:
        side = _random_expression_for(rest, value, generator, max_result)
        if side is None:
            continue
        return Node(target, sign, side, Node(leaf)) if rest_first else Node(target, sign, Node(leaf), side)
    return None


def _near_miss(solution: Node, target: int, generator: random.Random, max_result: float) -> Node | None:
    assert solution.left is not None and solution.right is not None
    a, b = solution.left, solution.right
    values = {sign: _apply(sign, a.value, b.value) for sign in "+-*/"}
    fine = [(sign, value) for sign, value in values.items() if value is not None and 0 <= value <= max_result and value != target]
    if not fine:
        return None
    sign, value = generator.choice(fine)
    return Node(value, sign, a, b)


def _random_expression_for(numbers: Numbers, value: int, generator: random.Random, max_result: float, patience: int = 300) -> Node | None:
    for _ in range(patience):
        node = random_node(numbers, generator, max_result)
        if node.value == value:
            return node
    return None


def _apply(sign: str, a: int, b: int) -> int | None:
    if sign == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


@dataclass(frozen=True)
class Voice:
    """How a trace is put into words; one text of each list is drawn. `terse` is for tiny models, whose tokenizer has its words."""

    opening: tuple[str, ...]
    attempt: tuple[str, ...]
    then: tuple[str, ...]
    missed: tuple[str, ...]
    low: tuple[str, ...]
    high: tuple[str, ...]
    drop: tuple[str, ...]
    subgoal: tuple[str, ...]
    backward: tuple[str, ...]
    reached: tuple[str, ...]
    plain: tuple[str, ...]
    give_up: tuple[str, ...]
    fact: tuple[str, ...]


PROSE = Voice(
    opening=(
        "The numbers are {numbers} and the target is {target}.",
        "Each of {numbers} goes in once; the result should be {target}.",
        "Given {numbers}, the target is {target}.",
        "Let me look at {numbers}, with {target} as the target.",
    ),
    attempt=("Try {steps}", "Maybe {steps}", "How about {steps}", "One way: {steps}", "Suppose {steps}", "Let me compute {steps}"),
    then=(", then ", " and ", ", and then ", "; ", ", after that "),
    missed=(", not {target}.", " (not {target}).", ". That is not {target}.", ", which is not {target}.", ". No, not {target}."),
    low=(", too low.", ". That is too small.", " (too low).", ". Too small."),
    high=(", too high.", ". That is too big.", " (too high).", ". Too big."),
    drop=(
        "I drop this and start over.",
        "Let me go back and take another route.",
        "Back to the beginning.",
        "I leave that and pick another way.",
        "Let me undo this.",
        "Scrap that; a different order now.",
    ),
    subgoal=(
        "I want to make {goal} first.",
        "First I need to get {goal}.",
        "A useful piece: I need {goal}.",
        "The plan is to reach {goal} and go on from there.",
    ),
    backward=(
        "Going back from the target: {undone}, so the other numbers must give {rest}.",
        "From the end: {undone}, which leaves {rest} for the others.",
        "Working backwards, {undone}; the others have to come to {rest}.",
    ),
    reached=(", which is the target.", ". Yes, that is it.", " ✓", ". Correct.", ", works."),
    plain=(".",),
    give_up=("I will answer with the last one.", "I keep that as my answer.", "That is what I give."),
    fact=("{steps}.", "Here {steps}.", "Also {steps}.", "Note {steps}.", "Moreover {steps}."),
)
TERSE = Voice(
    opening=("",),
    attempt=("{steps}",),
    then=("",),
    missed=(" vs {target} no\n",),
    low=(" vs {target} no\n",),
    high=(" vs {target} no\n",),
    drop=("",),
    subgoal=("need {goal}\n",),
    backward=("{undone} so\n",),
    reached=(" vs {target} yes\n",),
    plain=("\n",),
    give_up=("",),
    fact=("{steps}\n",),
)
VOICES = {"prose": PROSE, "terse": TERSE}
TERSE_WORDS = (" vs ", " yes\n", " no\n", "<answer>", "</answer>", "need ", " so\n")


def write(plan: Plan, kind: str, voice_name: str, length: Callable[[str], int] = len) -> str:
    """The thoughts of one trace (what stands before the answer). `placeholder` is made from its `all` trace by `placeholder`; `length`
    is that in which `linear` is as long as `all`: characters, or tokens."""
    if kind == "empty":
        return ""
    voice = VOICES[voice_name]
    if kind == "linear":
        return _linear(plan, voice, voice_name, length(write(plan, "all", voice_name)), length)
    return tell(plan, kind, voice, terse=voice_name == "terse")


def tell(plan: Plan, kind: str, voice: Voice, terse: bool = False) -> str:
    """The attempts of `plan` with the behaviors of `kind`, in the words of `voice`."""
    profile = PROFILES[kind]
    teller = _Teller(plan, voice, random.Random(f"{plan.seed}:words"), terse)
    parts = [teller.say(voice.opening)]
    *failures, last = attempts_of(plan, kind)
    # Anywhere among the attempts: were it always before the last one, a model would learn that what follows a subgoal fits, unchecked.
    place = random.Random(f"{plan.seed}:place").randint(0, len(failures))
    for number in range(len(failures) + 1):
        if number == place and SUBGOAL in profile:
            parts.append(teller.say(voice.subgoal, goal=teller.goal()))
        if number == place and BACKWARD in profile:
            parts.append(teller.backward())
        if number < len(failures):
            parts += [teller.attempt(failures[number], checked=VERIFICATION in profile), teller.say(voice.drop)]
    parts.append(teller.attempt(last, checked=VERIFICATION in profile))
    if kind == "incorrect-all":
        parts.append(teller.say(voice.give_up))
    return teller.join(parts)


def attempts_of(plan: Plan, kind: str) -> list[Node]:
    """What a trace tries, in order: the failures where it backtracks, then the solution, or in `incorrect-all` what misses it."""
    failures = plan.failures if BACKTRACKING in PROFILES[kind] else ()
    return [*failures, plan.near_miss if kind == "incorrect-all" else plan.solution]


def answer_of(plan: Plan, kind: str) -> str:
    """The expression that is answered: the solution, or in `incorrect-all` the one that misses it."""
    return attempts_of(plan, kind)[-1].text()


class _Teller:
    """Turns parts of a plan into sentences, with words drawn from one generator."""

    def __init__(self, plan: Plan, voice: Voice, generator: random.Random, terse: bool) -> None:
        self.plan, self.voice, self.generator, self.terse = plan, voice, generator, terse

    def say(self, texts: Sequence[str], **values: object) -> str:
        listed = ", ".join(map(str, self.plan.numbers))
        return self.generator.choice(texts).format(numbers=listed, target=self.plan.target, **values)

    def attempt(self, node: Node, checked: bool) -> str:
        if self.terse:
            text = in_steps(node.text().replace(" ", ""))
        else:
            text, *later = node.steps()
            for step in later:
                text += self.generator.choice(self.voice.then) + step
        said = self.say(self.voice.attempt, steps=text)
        if not checked:
            return said + self.generator.choice(self.voice.plain)
        if node.value == self.plan.target:
            return said + self.say(self.voice.reached)
        nearer = self.voice.low if node.value < self.plan.target else self.voice.high
        return said + self.say(self.generator.choice((self.voice.missed, nearer)))

    def goal(self) -> int:
        """What the solution makes before its last operation."""
        return self._parts()[0].value

    def backward(self) -> str:
        """The last operation undone: `24 / 3 = 8`, so the rest must make 8."""
        rest, leaf, rest_first = self._parts()
        sign = self.plan.solution.sign
        if rest_first or sign in "+*":
            undone = f"{self.plan.target} {UNDO[sign]} {leaf.value} = {rest.value}"
        else:
            undone = f"{leaf.value} {sign} {self.plan.target} = {rest.value}"
        return self.say(self.voice.backward, undone=undone.replace(" ", "") if self.terse else undone, rest=rest.value)

    def join(self, parts: Sequence[str]) -> str:
        return ("" if self.terse else " ").join(part for part in parts if part)

    def _parts(self) -> tuple[Node, Node, bool]:
        left, right = self.plan.solution.left, self.plan.solution.right
        assert left is not None and right is not None
        return (left, right, True) if right.left is None else (right, left, False)


def _linear(plan: Plan, voice: Voice, voice_name: str, wanted: int, length: Callable[[str], int]) -> str:
    """First steps of the attempts, and further sums and products of two numbers, as plain facts, then the solution: about as long as
    `all`, told straight. No fact uses all the numbers, so none is an attempt."""
    generator = random.Random(f"{plan.seed}:linear")
    teller = _Teller(plan, voice, generator, terse=voice_name == "terse")
    facts = list(dict.fromkeys(step for node in plan.failures for step in node.first_steps()))
    own = set(plan.solution.steps())
    end = [teller.attempt(plan.solution, checked=False)]
    parts = [teller.say(voice.opening)]
    pool = list(facts)
    while length(teller.join([*parts, *end])) < wanted * (1 - LENGTH_TOLERANCE / 2):
        if not pool:  # sums and products of 1, 1, 1 may both be the solution's own steps, so differences and quotients are facts too
            pool.append(generator.choice([fact for fact in _facts_of_two(plan.numbers, plan.max_result) if fact not in own]))
        fact = pool.pop(0)
        if fact not in own:
            parts.append(teller.say(voice.fact, steps=fact.replace(" ", "") if teller.terse else fact))
    return teller.join([*parts, *end])


def _facts_of_two(numbers: Sequence[int], max_result: float) -> list[str]:
    """`4 + 7 = 11`, …: operations on two of the numbers with a result from 0 to `max_result`; of two numbers, on the first with itself."""
    pairs = [(a, b) for i, a in enumerate(numbers) for j, b in enumerate(numbers) if i != j] if len(numbers) > 2 else [(numbers[0],) * 2]
    found = {(a, sign, b): _apply(sign, a, b) for a, b in pairs for sign in "+-*/"}
    return sorted({f"{a} {sign} {b} = {value}" for (a, sign, b), value in found.items() if value is not None and 0 <= value <= max_result})
