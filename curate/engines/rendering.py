"""From a `Prompt` to token ids: the chat template's control tokens are ours, everything else is encoded as plain text."""

from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from curate.engines.base import LABELS, Prompt
from curate.records.errors import UserError

SENTINEL = "FOURHABITS_CONTENT"
ANSWER_WORDS = {"yes": ("Yes", "yes", "YES"), "no": ("No", "no", "NO")}


class PromptRenderer:
    """Encodes prompts with a Hugging Face tokenizer. Pieces are encoded one by one, so equal pieces give equal ids: that is what a
    prefix cache needs, and a document cannot merge with, or pose as, a control token."""

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        if chat_template is None and not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template (a base model?); "
                "choose an instruction-tuned model or give one with --chat-template FILE"
            )
        message = [{"role": "user", "content": SENTINEL}]
        try:
            rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, chat_template=chat_template)
        except (TemplateError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"the chat template of {tokenizer.name_or_path} cannot be rendered: {reason}; mend --chat-template") from None
        if rendered.count(SENTINEL) != 1:
            raise UserError(f"the chat template of {tokenizer.name_or_path} does not show the user's message exactly once")
        before, after = rendered.split(SENTINEL)
        self._tokenizer = tokenizer
        self._before = tokenizer.encode(before, add_special_tokens=False)
        self._after = tokenizer.encode(after, add_special_tokens=False)
        self.plain = lru_cache(maxsize=64)(self._plain)

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of the whole prompt, ending where the assistant is to go on."""
        head, body, tail = self.plain(prompt.head), self.plain(prompt.body), self.plain(prompt.tail)
        return [*self._before, *head, *body, *tail, *self._after, *self.plain(prompt.opening)]

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        """Characters of `text` that its first `max_tokens` tokens hold."""
        ids = self.plain(text)
        if len(ids) <= max_tokens:
            return len(text)
        if not self._tokenizer.is_fast:
            return min(len(self._tokenizer.decode(ids[:max_tokens])), len(text))
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return encoded["offset_mapping"][max_tokens - 1][1]

    def label_ids(self, opening: str) -> dict[str, list[int]]:
        """First token of each way to write each label after `opening`, found by encoding them together.

        Raises UserError when the labels cannot be told apart by their first token.
        """
        base = self.plain(opening)
        found: dict[str, set[int]] = {}
        for label in LABELS:
            variants = [space + word for word in ANSWER_WORDS[label] for space in (" ", "")]
            joint = [self._plain(opening + variant) for variant in variants]
            found[label] = {ids[len(base)] for ids in joint if ids[: len(base)] == base and len(ids) > len(base)}
        shared = found["yes"] & found["no"]
        if not found["yes"] - shared or not found["no"] - shared:
            raise UserError(f"the tokenizer of {self._tokenizer.name_or_path} does not separate 'yes' from 'no' by their first token")
        return {label: sorted(ids - shared) for label, ids in found.items()}
