"""The bundled default end to end: real parts, a phantom and a real photograph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib import cbook
from PIL import Image

import demo
from data.phantoms.splits import DISEASES, render_phantom
from eval.asking.cases import Case
from eval.asking.conversation import Asker, Setting
from skingpt4.chat.differential import Ranker, Rule
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model, model_source
from skingpt4.config.load import load_config
from skingpt4.generation.questions import CLINICAL_PROMPTS, scored_diseases
from skingpt4.generation.sampling import Generation
from skingpt4.generation.scoring import score_answers
from skingpt4.model.prompts import Turn
from skingpt4.records.record import Record

pytestmark = pytest.mark.default
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def config():
    return load_config(ROOT / "configs/tiny/step2.yaml")


@pytest.fixture(scope="module")
def model(config):
    return load_model(config, None)


def test_a_phantom_is_answered_and_streams(model, config):
    session = ChatSession(model, config)
    session.add_image(Image.fromarray(render_phantom(1, "test", 0).image))
    pieces = list(session.stream("What is wrong with my skin?", Generation(max_new_tokens=12)))
    assert len(pieces) > 1
    assert session.turns[0].answer == "".join(pieces).strip() != ""


def test_a_real_photograph_goes_the_same_way(model, config):
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photograph = file.read()
    session = ChatSession(model, config)
    session.add_image(photograph)
    assert session.queries[0].shape == (1, 16, 256)
    assert session.ask("What is wrong with my skin?", Generation(max_new_tokens=6))


def test_the_shipped_qformer_tells_phantoms_apart(model, config):
    """Mean queries of one class lie nearer to each other than to other classes', on pictures never trained on."""
    session = ChatSession(model, config)
    names = list(DISEASES)[:4]
    for name in names:
        for index in range(3):
            session.add_image(Image.fromarray(render_phantom(1, "test", index, class_name=name).image))
    codes = torch.cat(session.queries).mean(1)
    codes = torch.nn.functional.normalize(codes - codes.mean(0), dim=-1)
    likeness = (codes @ codes.T).view(4, 3, 4, 3).mean((1, 3))
    assert all(likeness[i, i] > likeness[i, j] for i in range(4) for j in range(4) if i != j)


def test_batch_of_one_and_of_many_score_alike(model, config):
    session = ChatSession(model, config)
    for index in range(3):
        session.add_image(Image.fromarray(render_phantom(1, "test", index).image))
    prompt = session.encode([Turn("What is wrong with my skin?", None, num_images=1)])
    queries = torch.cat(session.queries)
    sentences = [config.prompt.disease_sentence.format(disease=d) for d in DISEASES.values()]
    many = score_answers(model, [prompt] * 3, queries, sentences)
    one = torch.cat([score_answers(model, [prompt], queries[i : i + 1], sentences) for i in range(3)])
    assert many.shape == (3, 15)
    # bf16 rounds differently with the batch; a nat is far below the spread over classes.
    assert torch.allclose(many, one, atol=1.0)
    assert (many.max(1).values - many.min(1).values > 5).all()


def test_one_conversation_at_a_time_and_several_at_once_say_the_same(config, model):
    """Greedy answers of the evaluation, through two prompts: the rows' different lengths must not matter."""
    session = ChatSession(model, config)
    for index in range(2):
        session.add_image(Image.fromarray(render_phantom(1, "test", index).image))
    record = Record(Path("phantom.jpg"), class_name="herpes")
    cases = [Case(f"c{number}", (record,), (number,)) for number in range(2)]

    def said(batch_size):
        setting = Setting(
            {name: (text,) for name, text in scored_diseases([record]).items()},
            CLINICAL_PROMPTS[:2],
            Generation(8),
            batch_size,
        )
        asker = Asker(model, config, setting, "arm")
        pictures = [session.queries[number] for number in range(len(cases))]
        # A second repeat asks without scoring the closed sets, which takes most of the time.
        answers = asker.answers(cases, lambda places: [pictures[place] for place in places], {}, repeat=1)
        return {answer.key: answer.fields["answer"] for answer in answers}

    one = said(1)
    assert said(2) == one
    assert len(one) == 2 * (2 + 2)
    assert len(set(one.values())) > 1


def test_the_bundled_start_belongs_to_the_default(config):
    """Loading it repeats its known answer: encoder, language model, template and numbers are those of its making."""
    start = load_config(ROOT / "configs/tiny/step1.yaml").initial_checkpoint
    _, card = checkpoint.load(start)
    assert card["step"] == "align"
    assert not card["diseases"], "step 1 and 2 have to teach them"
    load_model(config, start)


def test_the_bundled_demonstration_says_that_it_is_one():
    assert "no clinical meaning" in model_source(None, str(ROOT / demo.BUNDLED)).identity["caution"]


def test_the_bundled_demonstration_names_drawings_that_it_never_saw():
    config = model_source(None, str(ROOT / demo.BUNDLED)).config  # its own, as `make demo` opens it
    model, rule = load_model(config, ROOT / demo.BUNDLED), Rule.of(ROOT / demo.BUNDLED)
    assert rule.calibration is not None
    ranker, right = Ranker(model, config, rule), 0
    for index in range(15):
        phantom = render_phantom(9, "test", index)
        session = ChatSession(model, config)
        session.add_image(Image.fromarray(phantom.image))
        right += ranker.rank(session.queries).ranked[0].class_name == phantom.class_name
    assert right >= 6, "by chance it would be one of fifteen"
