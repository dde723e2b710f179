"""Prompts of mode `rationale`: reasons first, then quotes, then a count; in our layout, and in that of the published labelling."""

from collections.abc import Sequence
from dataclasses import replace

from curate.behaviors import Behavior
from curate.engines.base import Prompt
from curate.prompts import ROLE, ScoringPrompts
from curate.records.manifest import json_sha256

TASK = """
>>>
Question: {question} Look for every instance of {spoken}. Reply in this form and with nothing else:
<reasoning> what the author does, in one to three sentences </reasoning>
<quote> the exact words of the passage that show an instance, copied; one quote an instance, none without an instance </quote>
<count> the number of distinct instances, 0 when there is none </count>"""
TASK_OPENING = "<reasoning>"
# The published order: instruction, definition, examples, form of the reply, document. The words are ours.
PUBLISHED = """Below is a text from the internet. Your task is to find out whether its author shows {spoken}.

{definition}

For example, this shows it:
{positive}
and this does not:
{negative}

Judge only what the author visibly does in the text, and count the distinct instances; the count is 0 when there is none. Reply in Markdown under these three headings:

## Thoughts
[Go through the text and think about what its author does. Quote each instance word for word, between double quotation marks.]

## Does the text show {spoken}?
[yes or no]

## Number of instances
<count> [0, 1, 2, …] </count>

The text:
"""


class RationalePrompts(ScoringPrompts):
    """Definitions, then the window, then the task; problem and solution are asked for with one word."""

    introduction = f"{ROLE}\n\nBehaviors:\n"

    def __init__(self, behaviors: Sequence[Behavior]) -> None:
        super().__init__(behaviors)
        self.tasks = {item.name: TASK.format(question=item.question, spoken=item.spoken) for item in behaviors}

    def prompt(self, window: str, name: str) -> Prompt:
        """The prompt that asks `name` of a window."""
        if name not in self.tasks:
            prompt = super().prompt(window, name)
            return replace(prompt, tail=f"{prompt.tail} Answer with one word, yes or no.")
        return Prompt(self.head, window, self.tasks[name], TASK_OPENING)

    def hash(self) -> str:
        return json_sha256([super().hash(), self.tasks, TASK_OPENING])


class PublishedPrompts:
    """One instruction a behavior, and the document last."""

    def __init__(self, behaviors: Sequence[Behavior]) -> None:
        self.heads = {
            item.name: PUBLISHED.format(
                spoken=item.spoken,
                definition=item.definition,
                positive="".join(f'- "{text}"\n' for text in item.positive) or "- (no example)\n",
                negative="".join(f'- "{text}"\n' for text in item.negative) or "- (no example)\n",
            )
            for item in behaviors
        }

    def prompt(self, document: str, name: str) -> Prompt:
        """The prompt that asks `name` of a document."""
        return Prompt(self.heads[name], document, "")

    def hash(self) -> str:
        """Hash of every text that a label depends on, the document aside."""
        return json_sha256(self.heads)
