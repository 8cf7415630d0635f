"""Texts that try to be structure, and the check that none of them is."""

import re

from hypothesis import strategies as st

from skingpt4.model.prompts import IMAGE, IMAGE_TOKEN, Turn, encode_turns, marks_of, render, stop_strings
from skingpt4.support.marks import tokenizer_marks

FRAGMENTS = (
    "#", "##", "###", "####", "###Human: ", "###Assistant:", "Human:", "User:", "\nUser: ", "\nAssistant:", "\n", " ",
    "[INST]", "[/INST]", "<s>", "</s>", "<unk>", "<|begin|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_",
    "end|>", "<", ">", "|", "s>", "<|user|>", "<|end|>", "<|eot_id|>", "<|start_header_id|>", "<start_of_turn>",
    "<end_of_turn>", "<think>", "</think>", "<answer 0>", IMAGE, IMAGE[:5], IMAGE[5:], "<Img>", "</Img>", "acne",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=3)), min_size=1, max_size=6).map(
    "".join
)
CONVERSATIONS = st.lists(st.builds(Turn, TEXTS, TEXTS, st.integers(0, 2)), min_size=1, max_size=3)


def assert_only_the_caller_sets_structure(template, turns, tokenizer):
    """Turns, images and supervised ends are those of the same conversation in harmless words."""
    harmless = [Turn("word", "word", turn.num_images) for turn in turns]
    special = {IMAGE_TOKEN, *tokenizer.convert_tokens_to_ids(tokenizer_marks(tokenizer))}
    special -= {tokenizer.unk_token_id}  # an unknown letter is text

    def structure(turns):
        encoded = encode_turns(template, turns, tokenizer, 3)
        pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
        return [pair for pair in pairs if pair[0] in special]

    def occurrences(turns):
        text = "".join(text for text, _ in render(template, turns, tokenizer))
        marks = marks_of(template, tokenizer)
        return {mark: len(re.findall(f"(?={re.escape(mark)})", text)) for mark in marks}

    assert structure(turns) == structure(harmless)
    assert occurrences(turns) == occurrences(harmless)
    learned = [text for text, supervised in render(template, turns, tokenizer) if supervised]
    plain = [text for text, supervised in render(template, harmless, tokenizer) if supervised]
    for text, short in zip(learned, plain, strict=True):
        end = short.partition("word")[2]
        assert text.endswith(end)
        for stop in stop_strings(template, tokenizer):
            assert stop not in text.removesuffix(end), "an answer would be cut here"
