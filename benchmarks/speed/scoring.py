"""Scoring the 15 classes in one pass against one by one: python -m benchmarks scoring.

An image's class is the one whose sentence is most likely. Our way reads prompt and image once, then all 15 sentences
in one batch on that cache; the other way runs prompt, image and sentence again for each class, with logits of the
complete sequence. The scores are compared before anything is timed.

Research software, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import options, pairs, shapes, workload
from skingpt4.doctor import memory
from skingpt4.generation.scoring import score_answers, split_candidates
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Encoded, Turn, encode_turns, get_template
from skingpt4.records.images import to_tensor
from skingpt4.support.errors import reported
from skingpt4.taxonomy import taxonomy

QUESTION = "What is wrong with my skin?"
CLOSE = {"float32": 1e-3, "bfloat16": 1.0, "float16": 0.2}  # nats a sentence, rounding alone


@torch.no_grad()
def one_by_one(
    model: SkinGPT4,
    prompt: Encoded,
    queries: Tensor | None,
    answers: Sequence[str],
    image: Tensor | None = None,
) -> Tensor:
    """(answers,) log-probabilities, a complete pass for each; `score_answers` without its shortcuts.

    With `image` the image is encoded for every answer too.
    """
    shared, tails = split_candidates(model.tokenizer, answers)
    scores = []
    for tail in tails:
        if image is not None:
            queries = model.encode_images(image)
        ids = torch.tensor([[*prompt.input_ids, *shared, *tail]])
        logits = model.language_model(inputs_embeds=model.embed(ids, queries)).logits[0].float()
        before = logits[-len(tail) - 1 : -1].log_softmax(-1)
        tokens = torch.tensor(tail, device=logits.device)
        scores.append(before.gather(1, tokens[:, None]).sum())
    return torch.stack(scores)


def measure(setting: options.Setting, num_cases: int) -> dict[str, Any]:
    """Both ways over the same cases, then with the encoder run for every class, as the original does."""
    device, config = setting.device, shapes.configuration(setting.shape)
    shape, name = shapes.language_shape(setting.shape), setting.dtype_name
    needed = memory.chat(config, shape, name, memory.encoder_parameters(config))
    shapes.require_room(setting.shape, needed, device)
    model = shapes.network(setting.shape, config, device, setting.dtype)
    assert model.encoder is not None
    vision = model.encoder.vision_encoder
    images = [
        to_tensor(workload.drawn_image(n), config.vision.image_size, vision.mean, vision.std)[None].to(device)
        for n in range(num_cases)
    ]
    queries = [model.encode_images(image) for image in images]
    form = config.prompt.disease_sentence
    answers = [form.format(disease=taxonomy.class_disease(name)) for name in taxonomy.CLASSES]
    prompt = encode_turns(
        get_template(config.prompt.template), [Turn(QUESTION, None, 1)], model.tokenizer, queries[0].shape[1]
    )
    top = setting.ceiling()

    def ours() -> None:
        for shown in queries:
            score_answers(model, [prompt], shown, answers)

    def theirs() -> None:
        for shown in queries:
            one_by_one(model, prompt, shown, answers)

    def with_encoder() -> None:
        for image in images:
            one_by_one(model, prompt, None, answers, image)

    batched = score_answers(model, [prompt], queries[0], answers)[0]
    difference = float((batched - one_by_one(model, prompt, queries[0], answers)).abs().max())
    if difference > CLOSE[name]:
        raise shapes.ShapeError(f"the two ways differ by {difference:.3g} nats; nothing was timed")
    count = tokens_of(model, theirs) / tokens_of(model, ours)
    plain = pairs.compare(ours, theirs, setting.pairs, device=device, what="scoring")
    encoded = pairs.compare(
        ours, with_encoder, max(1, setting.pairs // 2), device=device, what="with the encoder"
    )
    print(f"tokens through the layers: {count:.2f}x fewer; scores differ by at most {difference:.2g} nats")
    print(f"one by one: {plain.line()}\n{plain.peak_line()}")
    print(f"with the image encoded for every class: {encoded.line()}")
    return {
        "what": f"{len(answers)} classes of {num_cases} pictures, in one pass against one by one",
        "counted": "tokens through the layers, padding included, seen as they are computed; the head is applied to "
        "the sentences' own tokens by ours, to every position by the other way",
        "prompt_tokens": len(prompt.input_ids), "count_ratio": count, "largest_difference_nats": difference,
        "ceiling": top.to_dict(), "measured": plain.to_dict(), "with_the_encoder_for_every_class": encoded.to_dict(),
    }  # fmt: skip


def tokens_of(model: SkinGPT4, work: Callable[[], None]) -> int:
    """Tokens that go through the language model's layers during some work, padding included."""
    total = 0

    def count(layers: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        nonlocal total
        embeds, ids = given.get("inputs_embeds"), given.get("input_ids")
        total += embeds[..., 0].numel() if embeds is not None else ids.numel() if ids is not None else 0

    hook = model.language_model.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        work()
    finally:
        hook.remove()
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("scoring", __doc__)
    parser.add_argument("--cases", type=int, default=2, help="pictures in a run (default: %(default)s)")
    with reported() as status:
        setting, args = options.settle("scoring", parser, argv)
        setting.save(measure(setting, 1 if setting.small else args.cases))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
