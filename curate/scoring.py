"""Mode `score`: each question about a window costs one token; a document's label is a probability."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

from curate.behaviors import Behavior
from curate.engines.base import Engine, Prompt, Score, ScoreRequest
from curate.prompts import ScoringPrompts
from curate.windows import document_score

EVIDENCE_SCORE = 0.5  # windows from this score on are evidence, and the best one always is


class Scoring:
    """How windows are asked and answers read when the label is the probability of a yes (see `Method` in curate.classification)."""

    answer_tokens = 1

    def __init__(self, behaviors: Sequence[Behavior], wordings: bool = False, aggregate: str = "max") -> None:
        self.aggregate = aggregate
        self.prompts = ScoringPrompts(behaviors, wordings)
        self.names = self.prompts.names
        self.questions = tuple(self.prompts.questions)
        self._longest = max(self.questions, key=lambda name: len(self.prompts.questions[name]))

    def hash(self) -> str:
        return self.prompts.hash()

    def longest(self, window: str) -> Prompt:
        return self.prompts.prompt(window, self._longest)

    def request(self, key: Hashable, window: str, name: str) -> ScoreRequest:
        return ScoreRequest(key, self.prompts.prompt(window, name))

    def stream(self, engine: Engine, requests: Iterable[Any]) -> Iterator[Score]:
        return engine.score(requests)

    def read(self, name: str, result: Score) -> Score:
        return result

    def labels(self, text: str, spans: Sequence[tuple[int, int]], answers: dict[str, list[Score]]) -> dict[str, Any]:
        """Columns of the document from one Score a question and window."""
        scores = {name: [answer.probability for answer in given] for name, given in answers.items()}
        evidence = []
        for name in self.names:
            best = max(range(len(spans)), key=scores[name].__getitem__)
            for number, (start, end) in enumerate(spans):
                if number == best or scores[name][number] >= EVIDENCE_SCORE:
                    evidence.append({"behavior": name, "start": start, "end": end, "score": scores[name][number]})
        return {
            **{f"{name}_score": document_score(scores[name], self.aggregate) for name in self.names},
            "evidence": evidence,
            "label_mass": min(answer.label_mass for given in answers.values() for answer in given),
            "problem_score": max(scores["problem"]),
            "solution_score": max(scores["solution"]),
        }
