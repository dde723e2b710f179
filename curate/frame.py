"""The frame in which question, thoughts and answer are read by training, and in which the RL stage may put a task."""

PROMPT = """A conversation between User and Assistant. The user asks a question and the assistant solves it: it thinks, then answers.
User: {question}
Assistant: Let me solve this step by step.
<think>"""
COMPLETION = """
{thoughts}
</think>
<answer>{answer}</answer>"""
# What stands between the texts, for a tokenizer in which each is one token; the closing tag is a word of answers anyway.
FRAME_WORDS = (*PROMPT.split("{question}"), COMPLETION[COMPLETION.index("</think>") - 1 : COMPLETION.index("{answer}")])
