"""What `train.py --dry-run` shows: the doctor's table, and one sample as the language model reads it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from skingpt4.config.schema import Config
from skingpt4.doctor.examine import examine, stopped, table
from skingpt4.doctor.findings import Facts
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded


def dry_run(config_path: str, config: Config, follows: bool = False) -> tuple[str, bool]:
    """Check a training run without loading its networks; nothing is written.

    Args:
        config_path: for the table's first line.
        config: of the run.
        follows: it is a step of a recipe after another, whose run is its `initial_checkpoint`.

    Returns:
        The report, and whether something would stop the run.
    """
    facts = Facts(config, follows=follows)
    findings = examine(facts)
    report = table(config_path, findings)
    if facts.training is not None:
        sample = show_sample(facts.training[0]["encoded"], facts.tokenizer)
        report += f"\n\nOne sample; what is trained is between >> and <<:\n{sample}"
    return report, stopped(findings)


def show_sample(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    """A sample as text: images as <n image vectors>, the supervised part between >> and <<."""
    text, num_images, in_supervised = "", 0, False
    ids: list[int] = []
    for token, supervised in zip([*encoded.input_ids, None], [*encoded.supervised, False], strict=True):
        if ids and (token == IMAGE_TOKEN or token is None or supervised != in_supervised):
            text += str(tokenizer.decode(ids))
            ids = []
        if num_images and token != IMAGE_TOKEN:
            text += f"<{num_images} image vectors>"
            num_images = 0
        if supervised != in_supervised:
            text += ">>" if supervised else "<<"
            in_supervised = supervised
        if token == IMAGE_TOKEN:
            num_images += 1
        elif token is not None:
            ids.append(token)
    return text
