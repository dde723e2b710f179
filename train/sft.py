"""`train sft`."""

from train.settings import SftSettings


def run(settings: SftSettings) -> None:
    """Fine-tune on priming data: the same loop as `train cpt`, five passes by default.

    Goes on from the newest checkpoint in --out.
    """
    from train.loop import train

    train("sft", settings)
