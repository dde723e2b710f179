"""Countdown traces written with a chosen set of behaviors and nothing outside it, from tasks that are solved exactly.

A `Plan` is what one task's traces of all kinds share: attempts that fail, the solution, and the words' seed. So two kinds differ in the
behaviors alone: the failed attempts really fail, checks compare what was computed, a subgoal is the next result of the solution, a step
from the target undoes the solution's last operation.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rl.prime_plans import Node, Plan, facts_of_two
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
            pool.append(generator.choice([fact for fact in facts_of_two(plan.numbers, plan.max_result) if fact not in own]))
        fact = pool.pop(0)
        if fact not in own:
            parts.append(teller.say(voice.fact, steps=fact.replace(" ", "") if teller.terse else fact))
    return teller.join([*parts, *end])
