"""Arms answered by a tiny network: what is written, resumed and refused."""

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from eval import run
from eval.asking import conversation
from eval.asking.answers import arm_files, case_lines, read_lines, read_run
from eval.asking.arms import Arm
from eval.asking.pictures import Shown
from eval.measures.results import run_lines, write_results
from eval.report import main as report
from skingpt4.chat import calibration
from skingpt4.chat.calibration import Calibration
from skingpt4.chat.differential import Ranker, Rule
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.identity import identity
from skingpt4.checkpoints.load import load_model
from skingpt4.config.load import load_config, to_yaml
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.records.images import open_image, to_tensor
from skingpt4.taxonomy.closed_set import ClosedSet, Disease
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, version
from skingpt4.training.loop import run as train
from tests.support.engine import StandInEngine, serving
from tests.support.tiny import load_language_model, make_encoder, make_model, tiny_config, write_manifest


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A configuration and cases of three classes; two of the six have unknown concepts."""
    folder = tmp_path_factory.mktemp("eval")
    config = tiny_config(folder, data__feature_cache=str(folder / "features"), data__augment=False)
    (folder / "config.yaml").write_text(to_yaml(config))
    write_manifest(folder / "cases.jsonl")
    rows = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    classes = {"psoriasis": "psoriasis_and_lichen_planus", "acne": "acne_and_rosacea",
               "melanoma": "melanoma_nevi_moles", "eczema": "dermatitis"}  # fmt: skip
    for number, row in enumerate(rows):
        row |= {"class": classes[row["disease"]], "case_id": f"case-{number}"}
        if number >= 4:
            row["concepts"] = None
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def answer(root, out, cases="cases.jsonl", *more):
    arguments = ["--config", str(root / "config.yaml"), "--cases", str(root / cases), "--run-dir", str(out)]
    return run.main([*arguments, "--arm", "untrained", "--batch-size", "4", "--max-new-tokens", "4", *more])


def lines(out):
    return run_lines(read_run(out))["untrained"]


def test_an_engine_gives_the_same_answers_and_the_meta_names_it(root, tmp_path, capsys):
    assert answer(root, tmp_path / "here") == 0
    served = load_language_model(load_config(root / "config.yaml").language.model)
    with serving(StandInEngine(served)) as engine:
        overrides = ["engine=vllm", f"engine.url={engine.url}"]
        assert answer(root, tmp_path / "there", "cases.jsonl", *overrides) == 0
        assert answer(root, tmp_path / "here", "cases.jsonl", *overrides) == 1, (
            "answers of two engines do not mix"
        )
    assert "engine" in capsys.readouterr().err
    words = ("answer", "class_scores", "num_tokens")
    here, there = (
        {a.key: [a.fields.get(w) for w in words] for a in read_lines(arm_files(tmp_path / side, "untrained"))}
        for side in ("here", "there")
    )
    assert here == there
    metas = [
        json.loads((tmp_path / side / "answers/untrained.meta.json").read_text())
        for side in ("here", "there")
    ]
    assert [meta.get("engine") for meta in metas] == [None, "vllm"]


def test_cases_with_and_without_known_concepts(root, tmp_path, capsys):
    assert answer(root, tmp_path) == 0
    rows = lines(tmp_path)
    assert [row["concepts"] is None for row in rows] == [False] * 4 + [True] * 2
    assert all(list(row["class_scores"]) == list(CLASSES) for row in rows)
    assert all(row["text_outcome"] in ("unknown", "asserted", "ambiguous", "mentioned") for row in rows)
    meta = json.loads((tmp_path / "answers/untrained.meta.json").read_text())
    assert meta["taxonomy"] == version()
    assert meta["scored_diseases"][0] == "acne"
    results = write_results(tmp_path)
    assert results["arms"]["untrained"]["top1"]["n"] == 6
    assert results["arms"]["untrained"]["concept_micro_f1"]["n"] == 4
    assert sum(results["text_outcomes"]["untrained"].values()) == 6
    assert report(["--run-dir", str(tmp_path), "--cases", str(root / "cases.jsonl")]) == 0
    assert "n = 4" in (tmp_path / "report.html").read_text()
    capsys.readouterr()


@pytest.fixture
def taught(root, tmp_path):
    """A checkpoint whose card names the diseases of its training."""
    config = tiny_config(root)
    model = make_model(root, encoder=make_encoder())
    diseases = [
        {"disease": "Tinea pedis", "class": "fungal_infections", "records": 30},
        {"disease": "Tinea corporis", "class": "fungal_infections", "records": 10},
        {"disease": "Alopecia areata", "class": "others", "records": 7},
    ]
    card = {
        "config": asdict(config),
        "step": "step2",
        "iteration": 1,
        "diseases": diseases,
        **identity(config, model),
    }
    seen = {"sha256": torch.zeros(1, 32, dtype=torch.uint8)}
    return checkpoint.save(tmp_path / "taught", model.projection.state_dict(), card, seen=seen)


def test_an_arm_that_knows_its_diseases_is_scored_with_all_of_them(root, taught, tmp_path, capsys):
    """By the same rule as on the page, with the calibration's weight of the text's prior where there is one."""
    arm = ["--arm", f"taught={taught}", "--allow-overlap"]
    assert answer(root, tmp_path / "run", "cases.jsonl", *arm) == 0
    meta = json.loads((tmp_path / "run/answers/taught.meta.json").read_text())
    closed_set = ClosedSet.of_rows(meta["closed_set"])
    assert closed_set.diseases[0] == Disease("Tinea pedis", "fungal_infections", 30)
    assert meta["prior_weight"] == 0
    plain = json.loads((tmp_path / "run/answers/untrained.meta.json").read_text())
    assert not {"closed_set", "prior_weight", "prior"} & set(plain)
    fitted = Calibration(1.0, None, 0.8, 40, {}, {}, closed_set=closed_set.to_rows(), prior_weight=0.6,
                         tensors_sha256=calibration.weights_sha256(taught))  # fmt: skip
    calibration.save(fitted, taught)
    assert answer(root, tmp_path / "run", "cases.jsonl", *arm) == 1, (
        "its classes are scored in another way now"
    )
    assert "prior_weight" in capsys.readouterr().err
    assert answer(root, tmp_path / "again", "cases.jsonl", *arm) == 0
    for folder, weight in (("run", 0.0), ("again", 0.6)):
        prior = json.loads((tmp_path / folder / "answers/taught.meta.json").read_text())["prior"]
        found = [
            a.fields for a in read_lines(arm_files(tmp_path / folder, "taught")) if a.key.kind == "scores"
        ]
        assert len(found) == 6
        for fields in found:
            assert list(fields["disease_scores"]) == list(prior) == [d.name for d in closed_set.diseases]
            scores, of_text = (np.array(list(each.values())) for each in (fields["disease_scores"], prior))
            expected = closed_set.class_scores(scores, of_text, weight)
            assert list(fields["class_scores"]) == list(CLASSES)
            assert list(fields["class_scores"].values()) == pytest.approx(expected.tolist(), abs=1e-3)
    rows = run_lines(read_run(tmp_path / "again"))["taught"]
    assert write_results(tmp_path / "again")["arms"]["taught"]["top1"]["n"] == 6
    config = load_config(root / "config.yaml")
    model = load_model(config, taught)
    vision = model.encoder.vision_encoder
    image = to_tensor(open_image(root / "cases_0.png"), config.vision.image_size, vision.mean, vision.std)
    shown = model.encode_images(image[None])
    page = {
        row.class_name: row.probability for row in Ranker(model, config, Rule.of(taught)).rank([shown]).ranked
    }
    of_run = torch.tensor([rows[0]["class_scores"][name] for name in CLASSES]).softmax(0).tolist()
    assert [page[name] for name in CLASSES] == pytest.approx(of_run, abs=1e-3)


def test_any_projector_is_evaluated_on_tokens_of_several_crops(root, tmp_path, capsys):
    """Cached cases, changed pictures and a blank one all have as many vectors as the prompt has places."""
    config = load_config(
        root / "config.yaml", ["projector=mlp", "pooling.side=2", "vision.crops=5", "qformer.weights=null"]
    )
    config.output_dir = str(tmp_path / "trained")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    train(config)
    arguments = ["--config", str(tmp_path / "config.yaml"), "--cases", str(root / "cases.jsonl")]
    arguments += [
        "--run-dir",
        str(tmp_path / "run"),
        "--max-new-tokens",
        "2",
        "--num-prompts",
        "1",
        "--allow-overlap",
    ]
    for name in ("step1_only", "blank_image", "noise_image"):
        arguments += ["--arm", f"{name}={config.output_dir}"]
    assert run.main(arguments) == 0, capsys.readouterr().err
    arms = run_lines(read_run(tmp_path / "run"))
    assert {name: len(rows) for name, rows in arms.items()} == dict.fromkeys(arms, 6)
    assert len(arms) == 3


def test_no_case_with_known_concepts(root, tmp_path, capsys):
    rows = [json.loads(line) | {"concepts": None} for line in (root / "cases.jsonl").read_text().splitlines()]
    (root / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer(root, tmp_path, "bare.jsonl") == 0
    assert "concept_micro_f1" not in write_results(tmp_path)["arms"]["untrained"]
    assert report(["--run-dir", str(tmp_path), "--cases", str(root / "bare.jsonl")]) == 0
    assert "not measured" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "not annotated" in page


def test_answers_of_another_taxonomy_are_kept_unless_they_may_be_replaced(
    root, tmp_path, monkeypatch, capsys
):
    assert answer(root, tmp_path) == 0
    path = tmp_path / "answers/untrained.jsonl"
    before = path.read_text()
    assert answer(root, tmp_path) == 0
    assert path.read_text() == before
    monkeypatch.setattr("skingpt4.taxonomy.taxonomy.version", lambda: "another")
    capsys.readouterr()
    assert answer(root, tmp_path) == 1
    assert "made with other settings (taxonomy differ)" in capsys.readouterr().err
    assert path.read_text() == before
    assert answer(root, tmp_path, "cases.jsonl", "--replace") == 0
    assert len(lines(tmp_path)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": None, "disease": None}, "neither 'class' nor 'disease'"),
        ({"class": None}, "case 'case-1' needs one of the 15 classes as 'class', found None"),
        ({"class": "others"}, "found 'others'"),
        ({"case_id": "case-0"}, "the pictures of case 'case-0' have different values under 'class'"),
    ],
)
def test_cases_that_cannot_be_evaluated(root, tmp_path, capsys, change, message):
    rows = [json.loads(line) for line in (root / "cases.jsonl").read_text().splitlines()]
    rows[1] |= change
    (root / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer(root, tmp_path, "bad.jsonl") == 1
    err = capsys.readouterr().err
    assert message in err
    assert not (tmp_path / "answers").exists()


def keys(out, arm="untrained"):
    return [answer.key for answer in read_lines(arm_files(out, arm))]


def said(out, arm="untrained"):
    return {
        a.key: a.fields.get("answer", a.fields.get("class_scores")) for a in read_lines(arm_files(out, arm))
    }


def test_each_case_is_one_conversation_and_sees_only_itself(root, tmp_path, monkeypatch):
    asked = []
    encode = conversation.encode_turns

    def listen(template, turns, *rest):
        asked.append([(turn.question, turn.answer, turn.num_images) for turn in turns])
        return encode(template, turns, *rest)

    monkeypatch.setattr(conversation, "encode_turns", listen)
    assert answer(root, tmp_path) == 0
    found = {(k.case_id, k.number): text for k, text in said(tmp_path).items() if k.kind == "turn"}
    talks = [talk for talk in asked if len(talk) == 4]
    assert len(talks) == 6
    for talk in talks:
        assert [question for question, _, _ in talk] == list(CLINICAL_PROMPTS)
        assert [images for _, _, images in talk] == [1, 0, 0, 0]
    before = Counter(tuple(text for _, text, _ in talk[:3]) for talk in talks)
    assert before == Counter(tuple(found[f"case-{n}", turn] for turn in (1, 2, 3)) for n in range(6))


def test_one_case_at_a_time_and_all_at_once_say_the_same(root, tmp_path):
    for name, size in (("one", "1"), ("all", "6")):
        assert (
            answer(root, tmp_path / name, "cases.jsonl", "--batch-size", size, "language.dtype=float32") == 0
        )
    one, many = said(tmp_path / "one"), said(tmp_path / "all")
    assert one.keys() == many.keys()
    for key, text in one.items():
        if key.kind == "scores":
            assert text == pytest.approx(many[key], abs=1e-3)
        else:
            assert text == many[key]


def test_repeats_are_drawn_and_seeded_and_changes_are_asked_once(root, tmp_path):
    more = ["--repeats", "2", "--temperature", "1.0", "--perturb", "blur:3", "--num-prompts", "1"]
    for name in ("a", "b"):
        assert answer(root, tmp_path / name, "cases.jsonl", *more) == 0
    assert said(tmp_path / "a") == said(tmp_path / "b")
    counts = Counter((key.repeat, key.perturbation, key.kind) for key in keys(tmp_path / "a"))
    assert counts == {
        (0, None, "turn"): 6, (0, None, "probe"): 12, (0, None, "scores"): 6,
        (1, None, "turn"): 6, (1, None, "probe"): 12,
        (0, "blur:3", "turn"): 6, (0, "blur:3", "probe"): 12, (0, "blur:3", "scores"): 6,
    }  # fmt: skip
    first, second = (
        [text for key, text in said(tmp_path / "a").items() if key.kind == "turn" and key.repeat == r]
        for r in (0, 1)
    )
    assert first != second


def test_some_cases_converse_and_more_can_follow(root, tmp_path, capsys):
    def turns():
        asked = [key for key in keys(tmp_path) if key.kind == "turn"]
        return [len([key for key in asked if key.case_id == f"case-{n}"]) for n in range(6)]

    assert answer(root, tmp_path, "cases.jsonl", "--num-conversations", "2") == 0
    assert turns() == [0, 4, 0, 0, 0, 4]
    two = said(tmp_path)
    run = write_results(tmp_path)["arms"]["untrained"]
    assert (run["top1"]["n"], run["different_answers"]["n"]) == (6, 2)
    assert answer(root, tmp_path, "cases.jsonl", "--num-conversations", "6", "--dry-run") == 0
    assert "arm untrained: 26 of 42 answers are there, 16 are to be given" in capsys.readouterr().out
    assert answer(root, tmp_path) == 0, "the rest of the conversations is added"
    assert turns() == [4] * 6
    assert two.items() <= said(tmp_path).items()
    assert answer(root, tmp_path, "cases.jsonl", "--num-conversations", "-1") == 1
    assert "--num-conversations must be 0 or more" in capsys.readouterr().err


def test_more_repeats_are_added_to_those_that_are_there(root, tmp_path):
    few = ["--num-prompts", "1", "--temperature", "1.0"]
    assert answer(root, tmp_path, "cases.jsonl", *few) == 0
    before = (tmp_path / "answers/untrained.jsonl").read_text()
    assert answer(root, tmp_path, "cases.jsonl", *few, "--repeats", "2") == 0
    assert (tmp_path / "answers/untrained.jsonl").read_text().startswith(before)
    assert {key.repeat for key in keys(tmp_path)} == {0, 1}
    assert json.loads((tmp_path / "answers/untrained.meta.json").read_text())["repeats"] == 2


def test_controls_are_shown_other_pictures(root, tmp_path, monkeypatch):
    seen = {}
    of = Shown._of

    def watch(self, number, control, *rest):
        seen[control, number] = of(self, number, control, *rest)
        return seen[control, number]

    monkeypatch.setattr(Shown, "_of", watch)
    monkeypatch.setattr("eval.asking.arms.parse_arm", lambda text: Arm(text, None))
    arms = ["--arm", "blank_image", "--arm", "noise_image", "--arm", "other_image", "--num-prompts", "1"]
    assert answer(root, tmp_path, "cases.jsonl", *arms) == 0
    own = [seen[None, number] for number in range(6)]
    assert len({tuple(queries.flatten().tolist()) for queries in own}) == 6
    assert not any(torch.equal(seen["noise_image", 0], queries) for queries in own)
    for number in range(6):
        shown = seen["other_image", number]
        assert not torch.equal(shown, own[number])
        assert any(torch.equal(shown, queries) for queries in own)
    assert [control for control, _ in seen if control == "blank_image"] == ["blank_image"]  # asked once
    assert len(keys(tmp_path, "blank_image")) == 6 * 4
    assert len({text for key, text in said(tmp_path, "blank_image").items() if key.kind == "turn"}) == 1


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_a_blank_picture_goes_through_as_many_conversations(count, root, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.asking.arms.parse_arm", lambda text: Arm(text, None))
    arms = ["--arm", "blank_image", "--num-prompts", "2", "--num-conversations", count]
    assert answer(root, tmp_path, "cases.jsonl", *arms) == 0
    turns = [key for key in keys(tmp_path, "blank_image") if key.kind == "turn"]
    assert len(turns) == 2 * int(count)
    complete = read_run(tmp_path)
    assert len(case_lines(complete, complete.arms["blank_image"])) == 6


def test_concept_scores_are_there_when_asked_for(root, tmp_path):
    assert answer(root, tmp_path, "cases.jsonl", "--concept-scores", "--num-prompts", "0") == 0
    for line in lines(tmp_path):
        assert list(line["concept_scores"]) == list(CONCEPTS)


def test_several_views_and_a_history_are_one_case(root, tmp_path):
    rows = [json.loads(line) for line in (root / "cases.jsonl").read_text().splitlines()][:3]
    rows[2] |= {"case_id": "case-0", "class": rows[0]["class"], "disease": rows[0]["disease"]}
    rows[0]["x_history"] = "Itching for two weeks."
    (root / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert answer(root, tmp_path, "views.jsonl", "--with-history") == 0
    turns = [a for a in read_lines(arm_files(tmp_path, "untrained")) if a.key.kind == "turn"]
    first = next(a for a in turns if a.key.case_id == "case-0")
    assert first.fields["prompt"] == f"Itching for two weeks. {CLINICAL_PROMPTS[0]}"
    assert first.fields["image_sha256"] == [None, None]  # the manifest has none
    assert len(lines(tmp_path)) == 2


def test_every_line_says_with_what_it_was_made(root, tmp_path):
    assert answer(root, tmp_path, "cases.jsonl", "--num-prompts", "1") == 0
    meta = json.loads((tmp_path / "answers/untrained.meta.json").read_text())
    for line in read_lines(arm_files(tmp_path, "untrained")):
        assert line.fields["checkpoint_sha256"] is None, "the projection as it was drawn"
        assert line.fields["template"] == meta["template"]
        assert line.fields["device"] == meta["hardware"]["device"]
        if line.key.kind != "scores":
            assert 1 <= line.fields["num_tokens"] <= 4


def test_concept_scores_are_added_to_a_run_without_them(root, tmp_path):
    assert answer(root, tmp_path, "cases.jsonl", "--num-prompts", "0") == 0
    before = (tmp_path / "answers/untrained.jsonl").read_text()
    assert answer(root, tmp_path, "cases.jsonl", "--num-prompts", "0", "--concept-scores") == 0
    after = (tmp_path / "answers/untrained.jsonl").read_text()
    assert after.startswith(before)
    assert after.count("\n") == before.count("\n") + 6, "only the closed sets are scored again"
    assert all(list(line["concept_scores"]) == list(CONCEPTS) for line in lines(tmp_path))
    assert answer(root, tmp_path, "cases.jsonl", "--num-prompts", "0", "--concept-scores") == 0
    assert answer(root, tmp_path, "cases.jsonl", "--num-prompts", "0") == 0
    assert (tmp_path / "answers/untrained.jsonl").read_text() == after


def test_one_run_has_one_list_of_cases(root, tmp_path, capsys, monkeypatch):
    """Arms about different lists would be judged by the list that came last."""
    monkeypatch.setattr("eval.asking.arms.parse_arm", lambda text: Arm(text, None))
    assert answer(root, tmp_path, "cases.jsonl", "--arm", "other", "--num-prompts", "0") == 0
    rows = (root / "cases.jsonl").read_text().splitlines(keepends=True)
    (root / "fewer.jsonl").write_text("".join(rows[:3]))
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert answer(root, tmp_path, "fewer.jsonl", "--num-prompts", "0") == 1
    assert "about another list of cases" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert answer(root, tmp_path, "fewer.jsonl", "--replace", "--temperature", "-1") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert answer(root, tmp_path, "fewer.jsonl", "--num-prompts", "0", "--replace") == 0
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {
        "untrained.jsonl", "untrained.meta.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--perturb", "tilt:3"], "'tilt:3' is not a change"),
        (["--arm", "two_step"], "write NAME=CHECKPOINT"),
        (["--arm", "untrained"], "arm 'untrained' is named twice"),
        (["--arm", "a/b=x"], "letters, digits"),
        (["--repeats", "0"], "must be 1 or more"),
        (["--temperature", "-1"], "temperature must be at least 0"),
    ],
)
def test_senseless_arguments_are_refused_before_the_model_is_loaded(root, tmp_path, capsys, more, message):
    assert answer(root, tmp_path, "cases.jsonl", *more) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "answers").exists()
