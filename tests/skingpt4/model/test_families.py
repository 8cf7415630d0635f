"""Any language model by name, under its own chat template: ten families, random and tiny, from configs alone.

What is written out by hand for each family is its dialogue: the ids and the supervised mask must be those and no
others. Templates are the families' published dialogue formats, in as few words as they need.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor

from skingpt4.chat.session import ChatSession
from skingpt4.config.schema import OptimConfig
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import (
    IMAGE_TOKEN,
    TOKENIZER_TEMPLATE,
    Turn,
    answer_end,
    encode_turns,
    get_template,
    stop_strings,
)
from skingpt4.training.loop import train_step
from skingpt4.training.optim.optimizer import make_optimizer
from tests.support.people_text import CONVERSATIONS, assert_only_the_caller_sets_structure
from tests.support.tiny import (
    NUM_QUERIES,
    QUERY_WIDTH,
    batch_of,
    load_language_model,
    make_queries,
    make_tokenizer,
    tiny_config,
)

_SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "initializer_range": 0.2, "tie_word_embeddings": False,
}  # fmt: skip
_GROUPED = {**_SMALL, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """A model type, its tokens and its dialogue, in which {Q} is a question and {I} a picture."""

    model_type: str
    args: dict[str, Any]
    template: str
    tokens: tuple[str, ...]  # special tokens that the template writes, added to the tokenizer
    dialogue: str  # the text before the first answer
    end: str  # closes an answer
    following: str = ""  # stands between an answer's end and the next question
    eos: str | None = None  # the tokenizer's own last token, where it is another than `end`
    kind: str = "qwen2"  # whose pre-tokenizer: "llama" is SentencePiece's, "qwen2" works on bytes
    lead: str = ""  # a blank that the template puts before an answer, but not where it asks for one


def _chatml(thought: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        + ("{% if m.role == 'assistant' and loop.last %}" + thought + "{% endif %}" if thought else "")
        + "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        + ("{% if enable_thinking is false %}" + thought + "{% endif %}" if thought else "")
        + "{% endif %}"
    )


_THOUGHT = "<think>\n\n</think>\n\n"
_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
_PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n"
    "{% else %}Assistant: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_IM = ("<|im_start|>", "<|im_end|>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_GEMMA_DIALOGUE = "<s><start_of_turn>user\n{I}\n{Q}<end_of_turn>\n<start_of_turn>model\n"
_GEMMA_ARGS = {**_GROUPED, "head_dim": 8, "sliding_window": 20}

FAMILIES = {
    "llama2": Family(
        "llama", _GROUPED, _INST, (), "<s>[INST] {I}\n{Q} [/INST]", "</s>", "[INST] {Q} [/INST]", kind="llama",
        lead=" ",
    ),
    "llama3": Family(
        "llama", {**_GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, _LLAMA3, _HEADERS,
        "<|begin|><|start_header_id|>user<|end_header_id|>\n\n{I}\n{Q}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{Q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        eos="<|endoftext|>",
    ),
    "qwen2": Family(
        "qwen2", _GROUPED, _chatml(""), _IM, "<|im_start|>user\n{I}\n{Q}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>", "\n<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n", eos="<|endoftext|>",
    ),
    "qwen3": Family(
        "qwen3", {**_GROUPED, "head_dim": 8}, _chatml(_THOUGHT), _IM,
        "<|im_start|>user\n{I}\n{Q}<|im_end|>\n<|im_start|>assistant\n" + _THOUGHT, "<|im_end|>",
    ),
    "gemma2": Family(
        "gemma2", _GEMMA_ARGS, _GEMMA, _TURNS, _GEMMA_DIALOGUE, "<end_of_turn>",
        "\n<start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n", eos="</s>", kind="gemma2",
    ),
    "gemma3": Family(
        "gemma3_text", _GEMMA_ARGS, _GEMMA, _TURNS, _GEMMA_DIALOGUE, "<end_of_turn>",
        "\n<start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n", eos="</s>", kind="gemma2",
    ),
    "mistral": Family(
        "mistral", {**_GROUPED, "sliding_window": 20}, _INST, ("[INST]", "[/INST]"), "<s>[INST] {I}\n{Q} [/INST]",
        "</s>", "[INST] {Q} [/INST]", kind="mistral", lead=" ",
    ),
    "falcon": Family(
        "falcon", {**_SMALL, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}, _PLAIN,
        (), "User: {I}\n{Q}\nAssistant:", "<|endoftext|>", "User: {Q}\nAssistant:", kind="falcon", lead=" ",
    ),
    "gpt_neox": Family(
        "gpt_neox", _SMALL, _PLAIN, (), "User: {I}\n{Q}\nAssistant:", "<|endoftext|>", "User: {Q}\nAssistant:",
        lead=" ",
    ),
    "phi3": Family(
        "phi3", _GROUPED, _PHI3, ("<|user|>", "<|assistant|>", "<|end|>"),
        "<|user|>\n{I}\n{Q}<|end|>\n<|assistant|>\n", "<|end|>", "\n<|user|>\n{Q}<|end|>\n<|assistant|>\n",
        eos="<|endoftext|>",
    ),
}  # fmt: skip
QUESTION, ANSWER = "What is wrong with my skin?", "psoriasis"


def tokenizer_of(family):
    tokenizer = make_tokenizer(family.kind)
    tokenizer.add_tokens([AddedToken(t, special=True) for t in family.tokens], special_tokens=True)
    tokenizer.chat_template = family.template
    tokenizer.eos_token = family.eos or family.end
    return tokenizer


@pytest.mark.parametrize("name", FAMILIES)
@given(turns=CONVERSATIONS)
@settings(max_examples=30)
def test_marks_in_texts_are_text(name, tokenizers, turns):
    assert_only_the_caller_sets_structure(None, turns, tokenizers[name])


@pytest.fixture(scope="module")
def tokenizers():
    return {name: tokenizer_of(family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("families"), {}

    def make(name):
        if name not in made:
            family = FAMILIES[name]
            tokenizer = tokenizer_of(family)
            ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                args = {
                    **family.args,
                    "vocab_size": len(tokenizer),
                    "pad_token_id": tokenizer.pad_token_id,
                    **ids,
                }
                model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.model_type, **args))
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
            made[name] = folder / name
        language_model = load_language_model(str(made[name]))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return SkinGPT4(None, language_model, QUERY_WIDTH).eval()

    return make


def encoded(model, *turns):
    return encode_turns(get_template(TOKENIZER_TEMPLATE), turns, model.tokenizer, NUM_QUERIES)


def expected_ids(tokenizer, text):
    """Ids of a dialogue's piece: what stands on either side of a picture is tokenised on its own."""
    ids = []
    for number, part in enumerate(text.split("{I}")):
        ids += [IMAGE_TOKEN] * NUM_QUERIES if number else []
        ids += tokenizer(part.replace("{Q}", QUESTION), add_special_tokens=False)["input_ids"] if part else []
    return ids


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_and_mask_are_the_familys_dialogue_and_nothing_else(name, networks):
    model, family = networks(name), FAMILIES[name]
    tokenizer = model.tokenizer
    result = encoded(model, Turn(QUESTION, ANSWER, 1))
    before = expected_ids(tokenizer, family.dialogue)
    answer = tokenizer(family.lead + ANSWER + family.end, add_special_tokens=False)["input_ids"]
    assert result.input_ids == before + answer
    assert result.supervised == [False] * len(before) + [True] * len(answer)
    # every token of the template is one id, none is spelt out
    for token in (*family.tokens, family.end):
        assert tokenizer(token, add_special_tokens=False)["input_ids"] == [
            tokenizer.convert_tokens_to_ids(token)
        ]
    # what is asked of the model is what it was trained on
    assert encoded(model, Turn(QUESTION, None, 1)).input_ids == before
    assert answer_end(None, tokenizer) == family.end


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.following])
def test_a_second_turn_follows_as_the_family_writes_it(name, networks):
    model, family = networks(name), FAMILIES[name]
    tokenizer = model.tokenizer
    result = encoded(model, Turn(QUESTION, ANSWER, 1), Turn(QUESTION, "acne"))
    first = encoded(model, Turn(QUESTION, ANSWER, 1))
    rest = expected_ids(tokenizer, family.following)
    last = tokenizer(family.lead + "acne" + family.end, add_special_tokens=False)["input_ids"]
    assert result.input_ids == first.input_ids + rest + last
    assert result.supervised == first.supervised + [False] * len(rest) + [True] * len(last)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_projection_learns_through_it(name, networks):
    model = networks(name)
    rows = [encoded(model, Turn(QUESTION, ANSWER, 1)), encoded(model, Turn("And this?", "acne", 1))]
    batch = {**batch_of(rows), "queries": make_queries(2)}
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    optimizer = make_optimizer(model, OptimConfig(init_lr=3e-2))
    model.train()
    steps = [train_step(model, optimizer, [batch], accelerator, 1.0) for _ in range(12)]
    assert steps[0].gradient_norm > 1e-4
    assert steps[-1].loss < steps[0].loss - 0.2
    assert all(p.grad is None for p in model.language_model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_of_a_batch_are_those_of_each_row_alone(name, networks):
    model = networks(name)
    prompts = [
        encoded(model, Turn(QUESTION, None, 1)),
        encoded(model, Turn("Why is it so red, please?", None, 1)),
    ]
    queries = make_queries(2)
    stop = stop_strings(None, model.tokenizer)
    options = {"max_new_tokens": 10, "do_sample": False}
    together = model.generate(prompts, queries, stop, **options)
    alone = [model.generate([p], queries[i : i + 1], stop, **options)[0] for i, p in enumerate(prompts)]
    assert together == alone
    assert any(together)


class _Says(LogitsProcessor):
    """Makes a model say these ids, whatever it thinks."""

    def __init__(self, ids):
        self.ids, self.calls = ids, 0

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -1e9)
        forced[:, self.ids[min(self.calls, len(self.ids) - 1)]] = 0.0
        self.calls += 1
        return forced


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_at_the_familys_end_and_at_the_tokenizers(name, networks, tmp_path):
    model, family = networks(name), FAMILIES[name]
    tokenizer = model.tokenizer
    answer_ids = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    junk = tokenizer("Human", add_special_tokens=False)["input_ids"]
    for end in {family.end, tokenizer.eos_token}:
        says = _Says([*answer_ids, tokenizer.convert_tokens_to_ids(end), *junk])
        stop = stop_strings(None, tokenizer)
        prompt = encoded(model, Turn(QUESTION, None, 1))
        text = model.generate([prompt], make_queries(1), stop, logits_processor=[says], max_new_tokens=50)
        assert text == [ANSWER]
        assert says.calls == len(answer_ids) + 1  # it did not go on
    session = ChatSession(model, tiny_config(tmp_path, prompt__template=TOKENIZER_TEMPLATE))
    session.queries, session.waiting = [make_queries(1)], 1
    pieces = list(session.stream(QUESTION, Generation(max_new_tokens=8)))
    assert not any(token in "".join(pieces) for token in (*family.tokens, family.end))


# Templates of ours that say the same as a family's own.
WRITTEN = {"qwen2": "chatml", "qwen3": "qwen3", "llama3": "llama3", "gemma2": "gemma", "gemma3": "gemma"}


@pytest.mark.parametrize(("name", "written"), WRITTEN.items())
def test_a_written_template_has_the_ids_and_the_mask_of_the_tokenizers_own(name, written, tokenizers):
    tokenizer, template = tokenizers[name], get_template(written)
    dialogues = [[Turn(QUESTION, ANSWER, 1)], [Turn(QUESTION, None, 1)], [Turn(QUESTION, ANSWER, 2)]]
    if name != "qwen3":  # whose own template takes the empty thought out of earlier answers
        dialogues.append([Turn(QUESTION, ANSWER, 1), Turn("And why?", "acne"), Turn("Is it?", None)])
    for turns in dialogues:
        ours, own = (encode_turns(each, turns, tokenizer, NUM_QUERIES) for each in (template, None))
        assert ours == own
        answers = [turn.answer + template.end for turn in turns if turn.answer]
        ids = [i for text in answers for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert [i for i, learned in zip(ours.input_ids, ours.supervised, strict=True) if learned] == ids
    assert set(stop_strings(None, tokenizer)) <= {*template.stop, tokenizer.eos_token}


def test_qwen3_is_asked_with_an_empty_thought_in_every_turn(tokenizers):
    tokenizer, template = tokenizers["qwen3"], get_template("qwen3")
    turns = [Turn(QUESTION, ANSWER, 1), Turn("And why?", "acne")]
    whole = encode_turns(template, turns, tokenizer, NUM_QUERIES)
    text = tokenizer.decode([i for i in whole.input_ids if i != IMAGE_TOKEN])
    assert text.count(_THOUGHT) == 2
    first = encode_turns(template, turns[:1], tokenizer, NUM_QUERIES)
    assert whole.input_ids[: len(first.input_ids)] == first.input_ids  # a follow-up reads what was written
    learned = tokenizer.decode([i for i, s in zip(whole.input_ids, whole.supervised, strict=True) if s])
    assert "think" not in learned


def test_a_template_that_writes_the_date_gets_the_same_one_each_day(tokenizers, monkeypatch):
    tokenizer = tokenizer_of(FAMILIES["llama3"])
    tokenizer.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n<|eot_id|>"
        + _LLAMA3.removeprefix("{{ bos_token }}")
    )
    encoded = encode_turns(None, [Turn(QUESTION, ANSWER)], tokenizer, NUM_QUERIES)
    assert "Today Date: 26 Jul 2024\n" in tokenizer.decode(encoded.input_ids)
