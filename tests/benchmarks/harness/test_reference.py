"""Our network and the original's recipe against the yardstick: loss, gradients, whole runs, greedy tokens; 1e-5."""

import copy
import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from benchmarks.harness import reference
from benchmarks.harness.reference import Batch, Chat, Original, Schedule
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints import checkpoint
from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import OptimConfig
from skingpt4.generation.sampling import Generation
from skingpt4.model.prompts import IMAGE_TOKEN, Turn, encode_turns, get_template
from skingpt4.training.loop import run
from skingpt4.training.optim.schedule import learning_rate
from skingpt4.training.prepare import prepare
from skingpt4.training.samples import answer_for
from tests.support.tiny import (
    IMAGE_SIZE,
    NUM_QUERIES,
    batch_of,
    conversation,
    make_encoder,
    make_model,
    make_picture,
    tiny_config,
)

FAMILIES = ("llama", "falcon")  # the second has no bos
QUESTIONS = ["What's wrong with my skin?", "Could you describe the skin disease in this image for me?"]
ANSWERS = ("It is acne.", "This is a skin disease image of psoriasis. See a doctor, please.", "")
close = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def original_of(model, **changes) -> Original:
    """The yardstick on a model's own parts, its projection a copy."""
    projection = copy.deepcopy(model.projection)
    return Original(model.encode_images, projection, model.language_model, model.tokenizer, **changes)


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_of_the_projection(family, folder):
    model = make_model(folder, family, make_encoder())
    original, image = original_of(model), pictures(3)
    wanted = reference.training_loss(original, image, QUESTIONS[0], ANSWERS)
    wanted.backward()

    rows = [conversation(model, QUESTIONS[0], answer) for answer in ANSWERS]
    loss, count = model(**batch_of(rows), image=image)
    (loss / count).backward()
    torch.testing.assert_close(loss / count, wanted, **close)
    for ours, theirs in zip(model.projection.parameters(), original.projection.parameters(), strict=True):
        assert theirs.grad.abs().max() > 1e-3
        torch.testing.assert_close(ours.grad, theirs.grad, **close)


# ---- whole runs


def compat_config(folder: Path, family: str, **changes):
    """Three epochs of three steps of two batches of two, a warm-up of five, some answers cut at 35 tokens."""
    return tiny_config(
        folder, family,
        **{
            "output_dir": str(folder / f"run_{family}"), "compat": "minigpt4", "prompt__questions": QUESTIONS,
            "prompt__concepts_sentence": "Features: {concepts}.", "prompt__disease_sentence": "It is {disease}.",
            "data__max_text_tokens": 35, "optim__max_epoch": 3, "optim__iters_per_epoch": 3,
            "optim__warmup_steps": 5, "optim__batch_size": 2, "optim__accumulation": 2,
            "optim__init_lr": 1e-2, "optim__min_lr": 1e-3, "optim__warmup_lr": 1e-4, **changes,
        },
    )  # fmt: skip


def original_run(config):
    """The projection's tensors after the same run by the yardstick, and what its batches were asked."""
    prepared = prepare(config, torch.device("cpu"))
    samples, model, optim = prepared.training, prepared.model, config.optim
    original = original_of(model, max_txt_len=config.data.max_text_tokens)
    optimizer = reference.make_optimizer(original.projection, optim.weight_decay)
    rates = [optim.warmup_steps, optim.init_lr, optim.min_lr, optim.warmup_lr]
    schedule = Schedule(optim.max_epoch, optim.iters_per_epoch, *rates)
    asked, number = [], itertools.count()
    for epoch in range(optim.max_epoch):
        for step in range(optim.iters_per_epoch):
            batches, drawn = [], []
            for _ in range(optim.accumulation):
                rows = [next(number) for _ in range(optim.batch_size)]
                answers = [answer_for(samples.records[samples.row_of(n)], config.prompt) for n in rows]
                batches.append(Batch(torch.stack([samples[n]["image"] for n in rows]), answers))
                drawn.append(only_question(model, [samples[n]["encoded"] for n in rows]))
            asked += drawn
            draw = iter(drawn)
            rate = schedule.rate(epoch, step)
            reference.training_step(original, optimizer, batches, QUESTIONS, rate, lambda _, d=draw: next(d))
    return original.projection.state_dict(), asked


def only_question(model, rows) -> str:
    """The one question that all rows of a batch are asked."""
    found = []
    for question in QUESTIONS:
        prompt = conversation(model, question).input_ids
        found += [question] * all(row.input_ids[: len(prompt)] == prompt for row in rows)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_with_compat_is_the_originals_run(family, tmp_path):
    config = compat_config(tmp_path, family)
    wanted, asked = original_run(config)
    tensors, _ = checkpoint.load(run(config))
    assert set(asked) == set(QUESTIONS)
    start = prepare(config, torch.device("cpu")).model.projection.state_dict()
    for name, value in tensors.items():
        assert (value - start[name]).abs().max() > 1e-2
        torch.testing.assert_close(value, wanted[name], **close)


@pytest.mark.parametrize(
    "field", ["question_per_batch", "cut_blindly", "warmup_restarts", "clips", "mean_of_means"]
)
def test_each_difference_shows_in_the_result(field, tmp_path, monkeypatch):
    changes = {"optim__max_grad_norm": 0.05, "optim__weight_decay": 0.0}
    tensors, _ = checkpoint.load(run(compat_config(tmp_path, "llama", **changes)))
    theirs = BEHAVIOURS["minigpt4"]
    changed = dataclasses.replace(theirs, **{field: not getattr(theirs, field)})
    monkeypatch.setitem(BEHAVIOURS, "minigpt4", changed)
    config = compat_config(tmp_path, "llama", output_dir=str(tmp_path / "changed"), **changes)
    ours, _ = checkpoint.load(run(config))
    assert (ours["weight"] - tensors["weight"]).abs().max() > 1e-4


def test_the_schedule_has_the_published_values_and_ours_follows_it():
    optim = OptimConfig(
        max_epoch=5, iters_per_epoch=200, warmup_steps=200, init_lr=3e-5
    )  # MiniGPT-4's second stage
    schedule = Schedule(5, 200, 200, 3e-5, 1e-5, 1e-6)
    for (epoch, step), rate in {(0, 0): 1e-6, (0, 199): 2.9855e-5, (1, 0): 2.8090e-5, (4, 199): 1e-5}.items():
        assert schedule.rate(epoch, step) == pytest.approx(rate, rel=1e-4)
    long = dataclasses.replace(optim, warmup_steps=450)
    restarting = dataclasses.replace(schedule, warmup_steps=450)
    for iteration in range(1000):
        place = divmod(iteration, 200)
        for ours, theirs in ((optim, schedule), (long, restarting)):
            rate = learning_rate(iteration, ours, BEHAVIOURS["minigpt4"])
            assert rate == pytest.approx(theirs.rate(*place), rel=1e-12)
    assert learning_rate(250, long) == pytest.approx(1e-6 + 2.9e-5 * 250 / 450)  # ours does not begin anew


# ---- answers


def greedy_ids(model, encoded, queries, limit) -> list[int]:
    """The tokens of our own greedy answer."""
    seen = []
    whole = model.language_model.generate

    def record(*args, **options):
        seen.append(whole(*args, **options))
        return seen[-1]

    model.language_model.generate = record
    try:
        model.generate([encoded], queries, ("###",), max_new_tokens=limit, do_sample=False)
    finally:
        del model.language_model.generate
    return seen[0][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_greedy_tokens_of_the_trained_prompt(family, seed, folder):
    model = make_model(folder, family, make_encoder())
    original, image = original_of(model), pictures(1, seed)
    before, after = f"###Human: <Img>@</Img> {QUESTIONS[0]} ###Assistant: ".split("@")
    embeds = torch.cat(
        [original.begin(), original.embed(before), original.project(image), original.embed(after)], dim=1
    )
    prompt = conversation(model, QUESTIONS[0])
    with torch.no_grad():
        ours = model.embed(torch.tensor([prompt.input_ids]), model.encode_images(image))
    torch.testing.assert_close(ours, embeds, **close)
    wanted = reference.generate(original, embeds, (), sample=False, max_new_tokens=24)
    assert len(set(wanted)) > 3
    assert greedy_ids(model, prompt, model.encode_images(image), 24) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_of_the_originals_chat(family, folder, tmp_path):
    model = make_model(folder, family, make_encoder())
    config = tiny_config(tmp_path, family, compat="minigpt4")
    session = ChatSession(model, config)
    session.add_image(make_picture(3))
    chat = Chat(original_of(model), stop_ids=[model.tokenizer("###", add_special_tokens=False)["input_ids"]])
    chat.parts.encode = lambda queries: queries  # both chats see what ours read
    chat.show(session.queries[0])
    chat.ask(QUESTIONS[0])

    prompt = session.encode([Turn(QUESTIONS[0], None, 1)])
    with torch.no_grad():
        ours = model.embed(torch.tensor([prompt.input_ids]), session.queries[0])
    torch.testing.assert_close(ours, chat.embeds(), **close)
    ids = greedy_ids(model, prompt, session.queries[0], 24)
    assert chat.answer(sample=False, max_new_tokens=24) == ids
    answer = session.ask(QUESTIONS[0], Generation(max_new_tokens=24))
    end = model.tokenizer.eos_token
    assert chat.messages[-1].removeprefix("Assistant: ").removesuffix(end).strip() == answer


def test_the_chat_template_is_that_of_compat_alone(folder, tmp_path):
    model = make_model(folder)
    theirs = ChatSession(model, tiny_config(tmp_path, compat="minigpt4")).template
    assert theirs is get_template("minigpt4_chat")
    assert ChatSession(model, tiny_config(tmp_path)).template is get_template("vicuna")


# ---- the yardstick itself keeps what it is there for


def test_the_yardsticks_answers_lose_their_end_and_padding_is_not_learned(folder):
    model = make_model(folder, "llama", make_encoder())
    original, image = original_of(model, max_txt_len=6), pictures(2)
    long = "This is a skin disease image of psoriasis."
    template, tokenizer = get_template("vicuna"), model.tokenizer
    whole = encode_turns(template, [Turn(QUESTIONS[0], long, 1)], tokenizer, NUM_QUERIES)
    first = whole.supervised.index(True)
    cut = dataclasses.replace(
        whole, input_ids=whole.input_ids[: first + 6], supervised=whole.supervised[: first + 6]
    )
    rows = [conversation(model, QUESTIONS[0], "I."), cut]
    loss, count = model(**batch_of(rows), image=image)
    assert int(count) < 12  # the shorter answer is padded
    wanted = reference.training_loss(original, image, QUESTIONS[0], ["I.", long])
    torch.testing.assert_close(loss / count, wanted, **close)


def test_the_yardsticks_chat_reads_all_again_and_forgets_its_beginning(folder):
    model = make_model(folder, "llama", make_encoder())
    chat = Chat(original_of(model), stop_ids=())
    chat.show(pictures(1))
    chat.ask("What is it?")
    lengths = [chat.embeds().shape[1]]
    chat.answer(sample=False, max_new_tokens=4)
    chat.ask("Why?")
    lengths.append(chat.embeds().shape[1])
    assert lengths[1] > lengths[0]
    assert chat.messages[0] == "Human: <Img><ImageHere></Img> What is it?"
    assert chat.messages[1].startswith("Assistant: ")
    assert chat.messages[2] == "Human: Why?"
    whole = reference.generate(chat.parts, chat.embeds(), (), False, 4)
    last = chat.embeds()[:, -16:]
    assert chat.answer(sample=False, max_new_tokens=4, max_length=20) == reference.generate(
        chat.parts, last, (), False, 4
    )
    assert len(whole) == 4


def test_the_yardstick_stops_on_ids_and_samples_among_the_likeliest(folder):
    original = original_of(make_model(folder, "llama"))
    embeds = original.embed("This is a skin disease")
    free = reference.generate(original, embeds, (), False, 8)
    assert reference.generate(original, embeds, (free[1:3],), False, 8) == free[:3]
    torch.manual_seed(0)
    drawn = [reference.generate(original, embeds, (), True, 1)[0] for _ in range(200)]
    chances = original.language_model(inputs_embeds=embeds).logits[0, -1].softmax(-1).topk(50)
    assert 1 < len(set(drawn)) <= 50
    assert set(drawn) <= set(chances.indices.tolist())
    assert IMAGE_TOKEN not in drawn
