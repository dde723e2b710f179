"""How a Countdown task is put to a model: raw text, no chat template. The response follows the prompt directly."""

from collections.abc import Sequence

from curate.frame import PROMPT
from curate.records.errors import UserError

# The published prompt (TinyZero `examples/data_preprocess/countdown.py`, template "base"), word for word.
TINYZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks about "
    "the reasoning process in the mind and then provides the user with the answer.\n"
    "User: Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations (+, -, *, /) "
    "and each number can only be used once. Show your work in <think> </think> tags. And return the final answer in <answer> </answer> "
    "tags, for example <answer> (1 + 2) / 3 </answer>.\n"
    "Assistant: Let me solve this step by step.\n<think>"
)
SHORT = "{short}={target}:"
SET = PROMPT.replace("{question}", SHORT)  # as `curate match` frames a text whose question is SHORT
TEMPLATES = {"tinyzero": TINYZERO, "short": SHORT, "set": SET}


def render(template: str, numbers: Sequence[int], target: int) -> str:
    """The prompt for one task. `template` is a key of TEMPLATES, or a text with {numbers} and {target}.

    Raises UserError for anything else.
    """
    text = TEMPLATES.get(template, template)
    if template not in TEMPLATES and not ("{numbers}" in text and "{target}" in text):
        raise UserError(f"--template {template!r} is none of {', '.join(TEMPLATES)}, and no text with {{numbers}} and {{target}}")
    listed = "[" + ", ".join(map(str, numbers)) + "]"
    short = ",".join(map(str, numbers))
    return text.replace("{numbers}", listed).replace("{short}", short).replace("{target}", str(target))
