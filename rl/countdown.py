"""The Countdown game: tasks from a seeded generator, each with a proof of solvability and its number of solutions.

A solution is a binary expression over all the numbers. Two are the same when they differ only in the order of the operands of
`+` and `*`, or in which of two equal numbers stands where; `(a+b)+c` and `a+(b+c)` are two. With `integer_only`, every intermediate
result is an integer (the published generator's rule); else intermediate results are rationals.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Value = int | Fraction
Numbers = tuple[int, ...]
Task = tuple[Numbers, int]
MAX_OPERANDS = 6
_Top = tuple[Numbers, Value, str, Numbers, Value]  # left numbers, their value, operator, right numbers, their value


@dataclass(frozen=True)
class Game:
    """What tasks are drawn from; all ranges include both ends. `operand_shares` weighs `operands`, one to one."""

    operands: tuple[int, ...] = (3, 4)
    operand_shares: tuple[float, ...] = (0.5, 0.5)
    min_number: int = 1
    max_number: int = 99
    min_target: int = 10
    max_target: int = 100
    integer_only: bool = True


@dataclass(frozen=True)
class Solved:
    """A task with its proof: `solution` is one expression that reaches the target."""

    numbers: Numbers
    target: int
    num_solutions: int
    solution: str


def key(numbers: Sequence[int], target: int) -> Task:
    """Two tasks are the same problem when their keys are equal: (sorted numbers, target)."""
    return tuple(sorted(numbers)), target


def count_solutions(numbers: Sequence[int], target: int, integer_only: bool = True) -> int:
    """Number of different expressions over all `numbers` with value `target` (see the module's text for `different`)."""
    hand = tuple(sorted(numbers))
    if len(hand) == 1:
        return int(hand[0] == target)
    return sum(ways for value, _, ways in _combined(hand, integer_only) if value == target)


def solve(numbers: Sequence[int], target: Value, integer_only: bool = True) -> str | None:
    """One expression over all `numbers` with value `target`, inner operations in brackets; None when there is none."""
    expression = _solve(tuple(sorted(numbers)), target, integer_only)
    return expression[1:-1] if expression and expression.startswith("(") else expression


@lru_cache(maxsize=100_000)
def reachable(hand: Numbers, integer_only: bool) -> dict[Value, int]:
    """Every value that the sorted numbers `hand` can make, with the number of different expressions that make it."""
    if len(hand) == 1:
        return {hand[0]: 1}
    table: dict[Value, int] = {}
    for value, _, ways in _combined(hand, integer_only):
        table[value] = table.get(value, 0) + ways
    return table


def _combined(hand: Numbers, integer_only: bool) -> Iterator[tuple[Value, _Top, int]]:
    """Every way to make the last operation over `hand`: its value, what it joins, and the number of expressions of that kind."""
    for left, right in _splits(hand):
        mirrored = left == right  # both halves hold the same numbers: each pair of different values comes up twice
        for a, ways_a in reachable(left, integer_only).items():
            for b, ways_b in reachable(right, integer_only).items():
                ways = ways_a * ways_b
                if not mirrored or a <= b:
                    unordered = ways_a * (ways_a + 1) // 2 if mirrored and a == b else ways
                    yield a + b, (left, a, "+", right, b), unordered
                    yield a * b, (left, a, "*", right, b), unordered
                sides = ((left, a, right, b),) if mirrored else ((left, a, right, b), (right, b, left, a))
                for upper, x, lower, y in sides:
                    yield x - y, (upper, x, "-", lower, y), ways
                    if y != 0 and (not integer_only or x % y == 0):
                        yield _quotient(x, y), (upper, x, "/", lower, y), ways


def _quotient(x: Value, y: Value) -> Value:
    if isinstance(x, int) and isinstance(y, int) and x % y == 0:
        return x // y
    exact = Fraction(x) / Fraction(y)
    return exact.numerator if exact.denominator == 1 else exact


@lru_cache(maxsize=100_000)
def _splits(hand: Numbers) -> tuple[tuple[Numbers, Numbers], ...]:
    """The ways to part a sorted multiset into two non-empty ones, each once, whichever half comes first."""
    found = set()
    for mask in range(1, 2 ** len(hand) - 1):
        left = tuple(number for place, number in enumerate(hand) if mask >> place & 1)
        right = tuple(number for place, number in enumerate(hand) if not mask >> place & 1)
        found.add((left, right) if (len(left), left) <= (len(right), right) else (right, left))
    return tuple(sorted(found))


def _solve(hand: Numbers, target: Value, integer_only: bool) -> str | None:
    if len(hand) == 1:
        return str(hand[0]) if hand[0] == target else None
    for value, (left, a, sign, right, b), _ in _combined(hand, integer_only):
        if value == target:
            return f"({_solve(left, a, integer_only)} {sign} {_solve(right, b, integer_only)})"
    return None


def draw(game: Game, generator: random.Random) -> Task:
    """One random task, solvable or not."""
    (count,) = generator.choices(game.operands, game.operand_shares)
    numbers = tuple(generator.randint(game.min_number, game.max_number) for _ in range(count))
    return numbers, generator.randint(game.min_target, game.max_target)


def tasks(game: Game, generator: random.Random, patience: int = 20_000) -> Iterator[Solved]:
    """Different solvable tasks without end, or until `patience` draws in a row bring nothing new (the game is used up)."""
    seen: set[Task] = set()
    misses = 0
    while misses < patience:
        numbers, target = draw(game, generator)
        misses += 1
        if key(numbers, target) in seen:
            continue
        seen.add(key(numbers, target))
        if solutions := count_solutions(numbers, target, game.integer_only):
            proof = solve(numbers, target, game.integer_only)
            assert proof is not None
            misses = 0
            yield Solved(numbers, target, solutions, proof)
