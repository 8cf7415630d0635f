"""A run in other tools' layouts, and our model behind lmms-eval's interface."""

import abc
import ast
import base64
import csv
import importlib
import json
import sys
import types

import pytest
import torch
from PIL import Image

from eval.asking.answers import Answer, Key, to_line
from eval.export import __main__ as export
from eval.tasks import load_task
from eval.tasks.load import write_task
from skingpt4.config.load import to_yaml
from skingpt4.generation.sampling import Generation
from skingpt4.model.prompts import Turn
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.tiny import tiny_config

META = {
    "prompts": ["Describe it."], "probes": ["Which concepts?", "What is wrong?"], "repeats": 2,
    "decoding": {"temperature": 0.7, "max_new_tokens": 8}, "checkpoint_sha256": "ab",
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path):
    """Two cases, two repeats; the first is answered rightly, the second commits to nothing and has no concepts."""
    folder = tmp_path / "run"
    (folder / "answers").mkdir(parents=True)
    (folder / "answers/two_step.meta.json").write_text(json.dumps(META))
    lines, cases = [], []
    for number, text_class in enumerate(("dermatitis", None)):
        name = f"case-{number}"
        Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / f"{name}.png")
        cases.append(
            {"id": name, "images": [f"{name}.png"], "sha256": ["0"], "class": "dermatitis", "disease": "eczema",
             "concepts": ["Papule"] if number == 0 else None, "fitzpatrick": 12, "source": "made up",
             "history": "Itches\tat night.", "reference": ["It is red."]}
        )  # fmt: skip
        for repeat in range(2):
            reads = {"predicted_concepts": ["Papule", "Scale"]}
            commits = {"text_class": text_class, "text_outcome": "asserted"}
            for kind, at, said in (
                ("turn", 1, {"prompt": "Describe it.", "answer": f'Red "patch"\n{repeat}.', "num_tokens": 4}),
                ("probe", 1, {"question": "Which concepts?", "answer": "Papule", **reads}),
                ("probe", 2, {"question": "What is wrong?", "answer": "Eczema.", **commits}),
            ):
                lines.append(Answer("two_step", Key(name, repeat, None, kind, at), said))
        scores = {each: -1.0 if each == "dermatitis" else -2.0 for each in CLASSES}
        lines.append(
            Answer("two_step", Key(name, 0, None, "scores"), {"class_scores": scores, "concept_scores": None})
        )
    (folder / "answers/two_step.jsonl").write_text("".join(map(to_line, lines)))
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    return folder


def run(run_dir, kind, *more):
    out = run_dir.parent / "out"
    return export.main(["--run-dir", str(run_dir), "--format", kind, "--out", str(out), *more]), out


def test_lmms_eval_samples_and_results(run_dir):
    status, out = run(run_dir, "lmms-eval")
    assert status == 0
    results = json.loads((out / "two_step/run_results.json").read_text())
    tasks = {"skingpt4_turn_1", "skingpt4_concepts", "skingpt4_diagnosis", "skingpt4_class"}
    assert set(results["results"]) == set(results["configs"]) == set(results["task_hashes"]) == tasks
    rows = {
        task: [json.loads(x) for x in (out / f"two_step/run_samples_{task}.jsonl").read_text().splitlines()]
        for task in tasks
    }
    turn = rows["skingpt4_turn_1"][1]
    assert (turn["doc_id"], turn["target"], turn["input"]) == (1, "It is red.", "Describe it.")
    assert turn["resps"] == ['Red "patch"\n0.', 'Red "patch"\n1.']
    assert turn["filtered_resps"] == 'Red "patch"\n0.'
    assert len(turn["doc_hash"]) == 64
    assert turn["token_counts"] == [{"output_tokens": 4}]
    assert [row["acc"] for row in rows["skingpt4_diagnosis"]] == [1, 0]
    assert results["results"]["skingpt4_diagnosis"]["acc,none"] == 0.5
    assert results["results"]["skingpt4_diagnosis"]["acc_stderr,none"] == pytest.approx(0.5)
    assert [row["concept_f1"] for row in rows["skingpt4_concepts"]] == [
        pytest.approx(2 / 3)
    ]  # the other is unknown
    closed = rows["skingpt4_class"][0]
    assert closed["target"] == str(CLASSES.index("dermatitis"))
    assert (len(closed["filtered_resps"]), closed["acc"]) == (len(CLASSES), 1)


def test_vlmevalkit_tables(run_dir):
    status, out = run(run_dir, "vlmevalkit", "--images", str(run_dir.parent))
    assert status == 0

    def read(name):
        with (out / name).open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    cases, predictions = read("skin_cases.tsv"), read("two_step_skin_cases.tsv")
    letter = "ABCDEFGHIJKLMNO"[CLASSES.index("dermatitis")]
    assert (cases[1]["index"], cases[1]["answer"], cases[1]["category"]) == ("1", letter, "dermatitis")
    assert cases[0]["hint"] == "Itches\tat night."
    assert base64.b64decode(cases[0]["image"]) == (run_dir.parent / "case-0.png").read_bytes()
    assert "image" not in predictions[0]
    assert [row["prediction"] for row in predictions] == [letter, ""]
    assert [row["prediction_scored"] for row in predictions] == [letter, letter]
    assert predictions[0]["text"] == "Eczema."


def of_task(run_dir, name, **case):
    """The run's folder as one of another task, its cases with these values."""
    task = load_task(name)
    write_task(run_dir, task)
    cases = [json.loads(line) | case for line in (run_dir / "cases.jsonl").read_text().splitlines()]
    (run_dir / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    path = run_dir / "answers/two_step.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "scores":
            line["class_scores"] = {each: -float(n) for n, each in enumerate(task.classes)} or None
        if "text_class" in line:
            line["text_class"] = case["class"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return task


def test_letters_are_those_of_the_tasks_classes(run_dir):
    task = of_task(
        run_dir, "ham10000_7", **{"class": "melanoma", "groups": {"x_dx_type": "histo", "x_sex": "f"}}
    )
    status, out = run(run_dir, "vlmevalkit", "--images", str(run_dir.parent))
    assert status == 0
    with (out / "two_step_skin_cases.tsv").open(newline="") as file:
        row = next(csv.DictReader(file, delimiter="\t"))
    letters = [key for key in row if len(key) == 1]
    assert [row[key] for key in letters] == list(task.classes)
    assert row["answer"] == row["prediction"] == letters[task.classes.index("melanoma")]
    assert (row["prediction_scored"], row["l2-category"]) == ("A", "histo")


@pytest.mark.parametrize(("name", "num_classes"), [("fitzpatrick17k_114", 114), ("skincon_48", 0)])
def test_a_task_without_letters_goes_to_lmms_eval_alone(run_dir, capsys, name, num_classes):
    task = load_task(name)
    of_task(
        run_dir, name, **{"class": task.classes[0] if task.classes else None, "groups": {"fitzpatrick": "12"}}
    )
    status, out = run(run_dir, "vlmevalkit", "--images", str(run_dir.parent))
    assert (status, out.exists()) == (1, False)
    assert f"the task {name} has {num_classes} classes" in capsys.readouterr().err
    status, out = run(run_dir, "lmms-eval")
    written = {path.name for path in out.rglob("*.jsonl")}
    assert (status, "run_samples_skingpt4_class.jsonl" in written) == (0, num_classes > 0)


def test_the_target_of_a_task_of_texts_is_its_first_reference(run_dir):
    of_task(run_dir, "dermavqa", **{"class": None, "reference": [], "references": ["A rash.", "Eczema."]})
    _, out = run(run_dir, "lmms-eval")
    first = (out / "two_step/run_samples_skingpt4_turn_1.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["target"] == "A rash."


def test_paths_instead_of_pictures(run_dir):
    _, out = run(run_dir, "vlmevalkit", "--images", str(run_dir.parent), "--image-paths")
    header, first, _ = (out / "skin_cases.tsv").read_text().splitlines()
    assert header.split("\t")[-1] == "image_path"
    assert "image" not in header.split("\t")
    assert first.endswith(f"\t{run_dir.parent / 'case-0.png'}"), "from wherever VLMEvalKit is run"


def test_several_pictures_of_a_case_are_lists_of_equal_length(run_dir):
    """VLMEvalKit decodes `image` piece by piece into the files that `image_path` names, and stops without them."""
    cases = [json.loads(line) for line in (run_dir / "cases.jsonl").read_text().splitlines()]
    cases[1]["images"] = ["case-1.png", "case-0.png"]
    (run_dir / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    _, out = run(run_dir, "vlmevalkit", "--images", str(run_dir.parent))
    with (out / "skin_cases.tsv").open(newline="") as file:
        one, two = csv.DictReader(file, delimiter="\t")
    assert one["image_path"] == "0_1.jpg"
    pictures, names = ast.literal_eval(two["image"]), ast.literal_eval(two["image_path"])
    assert names == ["1_1.jpg", "1_2.jpg"]
    assert [base64.b64decode(p) for p in pictures] == [
        (run_dir.parent / name).read_bytes() for name in cases[1]["images"]
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["vlmevalkit"], "needs --images"),
        (["vlmevalkit", "--images", "nowhere"], "no such picture"),
        (["lmms-eval", "--arm", "other"], "has no arm 'other'; there are two_step"),
    ],
)
def test_what_cannot_be_exported(run_dir, capsys, more, message):
    status, out = run(run_dir, *more)
    assert status == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_nothing_is_written_over(run_dir, capsys):
    run(run_dir, "lmms-eval")
    assert run(run_dir, "lmms-eval")[0] == 1
    assert "is not empty" in capsys.readouterr().err


class Request:
    """What lmms-eval 0.7.3 hands over: `Instance`, of which a model reads `args` alone."""

    def __init__(self, *args):
        self.args = args


@pytest.fixture
def plugin(monkeypatch):
    """The plug-in on the installed lmms-eval, or else on the interface of its 0.7.3."""
    try:
        importlib.import_module("lmms_eval.api.model")
    except ImportError:

        class Base(abc.ABC):
            def __init__(self):
                self._rank, self._world_size, self.task_dict = 0, 1, {}

            @abc.abstractmethod
            def loglikelihood(self, requests): ...

            @abc.abstractmethod
            def generate_until(self, requests): ...

            @abc.abstractmethod
            def generate_until_multi_round(self, requests): ...

            @property
            def rank(self):
                return self._rank

        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["lmms_eval.api.model"].lmms = Base
    monkeypatch.delitem(sys.modules, "eval.export.lmms_eval_model", raising=False)
    yield importlib.import_module("eval.export.lmms_eval_model")
    sys.modules.pop("eval.export.lmms_eval_model", None)


@pytest.fixture
def ours(plugin, tmp_path):
    config = tiny_config(tmp_path, step="none")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    model = plugin.SkinGPT4ForLmmsEval(config=str(tmp_path / "config.yaml"), max_new_tokens=4, device="cpu")
    model.task_dict = {"task": {"test": {0: {"n": 1}, 1: {"n": 2}}}}
    return model


def pictures(doc):
    return [Image.new("RGB", (16, 16), (40 * doc["n"], 90, 90)) for _ in range(doc["n"])]


def test_model_answers_as_the_chat_does(ours):
    options = {"max_new_tokens": 3, "until": ["\n\n"], "do_sample": False}
    requests = [
        Request("<image> What is it?", dict(options), pictures, doc, "task", "test") for doc in (0, 1)
    ]
    answers = ours.generate_until(requests)
    for doc, answer in enumerate(answers):
        ours.session.reset()
        for picture in pictures({"n": doc + 1}):
            ours.session.add_image(picture)
        assert answer == ours.session.ask("What is it?", Generation(max_new_tokens=3)).rstrip()


def test_likelihood_is_that_of_the_forward_pass(ours):
    request = Request("What is it?", " acne", pictures, 0, "task", "test")
    (log_p, _), (again, _) = ours.loglikelihood([request, request])
    assert log_p == again < 0
    session = ours.session
    tail = session.model.tokenizer("acne", add_special_tokens=False)["input_ids"]
    prompt = session.encode([Turn("What is it?", None, 1)]).input_ids
    ids = torch.tensor([[*prompt, *tail]])
    labels = torch.tensor([[-100] * len(prompt) + tail])
    loss, count = session.model(ids, labels, torch.ones_like(ids), queries=torch.cat(session.queries))
    assert count == len(tail)
    assert log_p == pytest.approx(-loss.item(), rel=1e-4)


class Says:
    """A tokenizer that knows certain ids under the name GREEDY."""

    def __init__(self, real, ids):
        self.real, self.ids = real, ids

    def __call__(self, text, **options):
        return {"input_ids": self.ids} if text == "GREEDY" else self.real(text, **options)

    def __getattr__(self, name):
        return getattr(self.real, name)


def test_greedy_continuation_is_called_greedy(ours):
    session, written = ours.session, []
    session.add_image(pictures({"n": 1})[0])
    prompt = session.encode([Turn("What is it?", None, 1)]).input_ids
    for _ in range(3):
        embeds = session.model.embed(torch.tensor([[*prompt, *written]]), torch.cat(session.queries))
        written.append(int(session.model.language_model(inputs_embeds=embeds).logits[0, -1].argmax()))
    request = Request("What is it?", "GREEDY", pictures, 0, "task", "test")
    real = session.model.tokenizer
    for ids, greedy in ((written, True), ([written[0], (written[1] + 1) % 50, written[2]], False)):
        session.model.language_model.tokenizer = Says(real, ids)
        assert ours.loglikelihood([request])[0][1] is greedy


def test_unknown_arguments_and_batches_are_refused(plugin):
    with pytest.raises(ValueError, match="no argument colour"):
        plugin.SkinGPT4ForLmmsEval(colour="red")
    with pytest.raises(ValueError, match="one at a time"):
        plugin.SkinGPT4ForLmmsEval(batch_size=8)
