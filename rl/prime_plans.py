"""What the traces of one Countdown task are made of, from tasks that are solved exactly: failed attempts that really fail, a solution
whose last operation can be undone, and the same with another last operation, which misses the target."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

from rl import countdown
from rl.countdown import Numbers


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
                if apply(sign, a, b) == target:
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
    values = {sign: apply(sign, a.value, b.value) for sign in "+-*/"}
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


def apply(sign: str, a: int, b: int) -> int | None:
    """The result, or None where a quotient is no integer."""
    if sign == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def facts_of_two(numbers: Sequence[int], max_result: float) -> list[str]:
    """`4 + 7 = 11`, …: operations on two of the numbers with a result from 0 to `max_result`; of two numbers, on the first with itself."""
    pairs = [(a, b) for i, a in enumerate(numbers) for j, b in enumerate(numbers) if i != j] if len(numbers) > 2 else [(numbers[0],) * 2]
    found = {(a, sign, b): apply(sign, a, b) for a, b in pairs for sign in "+-*/"}
    return sorted({f"{a} {sign} {b} = {value}" for (a, sign, b), value in found.items() if value is not None and 0 <= value <= max_result})
