"""Configuration: what extends what, what wins, and how each mistake is refused; every shipped file loads."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config import upgrade
from skingpt4.config.load import from_dict, load_config, to_dict, to_yaml
from skingpt4.config.schema import (
    Config,
    ConfigError,
    DataConfig,
    LanguageConfig,
    OptimConfig,
    PromptConfig,
    VisionConfig,
)
from skingpt4.model.prompts import get_template
from skingpt4.taxonomy.morphology import say_concepts

ROOT = Path(__file__).parents[3]
BASE = "step: step1\noutput_dir: runs/a\nlanguage: {model: weights/m}\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


# ---- extends and overrides


def test_defaults_are_the_articles(write):
    config = load_config(write(BASE))
    assert config.optim == OptimConfig(20, 5000, 5000, 2, 1, 1e-4)
    assert config.data.max_text_tokens == 160
    assert config.qformer.num_query_tokens == 32


def test_the_extending_file_wins_and_the_command_line_wins_over_it(write):
    write(BASE + "seed: 1\noptim: {batch_size: 1, init_lr: 1e-3, min_lr: 1e-6}", "base.yaml")
    write("extends: base.yaml\nseed: 2\noptim: {batch_size: 2}", "middle.yaml")
    top = write("extends: middle.yaml\nstep: step2\noptim: {min_lr: 1e-7}", "top.yaml")
    config = load_config(top, ["optim.batch_size=3", "optim.batch_size=4", "language.dtype=float32"])
    assert (config.step, config.seed) == ("step2", 2)
    assert (config.optim.batch_size, config.optim.init_lr, config.optim.min_lr) == (4, 1e-3, 1e-7)
    assert (config.language.model, config.language.dtype) == ("weights/m", "float32")


def test_several_parents_and_another_folder(write):
    write(BASE + "seed: 1", "parents/a.yaml")
    write("seed: 2\nprompt: {questions: [Q]}", "parents/b.yaml")
    config = load_config(write("extends: [parents/a.yaml, parents/b.yaml]"))
    assert config.seed == 2  # the later parent wins
    assert config.prompt.questions == ["Q"]  # a list is replaced, not extended


def test_the_same_parent_twice_is_not_a_circle(write):
    write(BASE, "base.yaml")
    write("extends: base.yaml\nseed: 5", "a.yaml")
    write("extends: base.yaml", "b.yaml")
    assert load_config(write("extends: [a.yaml, b.yaml]")).seed == 5


def test_override_takes_lists_null_and_equals_signs(write):
    path = write(BASE + "initial_checkpoint: runs/x")
    config = load_config(
        path, ["data.train=[a.jsonl,b.jsonl]", "initial_checkpoint=null", "output_dir=runs/lr=3"]
    )
    assert config.data.train == ["a.jsonl", "b.jsonl"]
    assert config.initial_checkpoint is None
    assert config.output_dir == "runs/lr=3"


def test_environment_variables(write, monkeypatch):
    path = write(BASE.replace("weights/m", "'${oc.env:SKIN_TEST_MODEL}'"))
    monkeypatch.setenv("SKIN_TEST_MODEL", "hub/model")
    assert load_config(path).language.model == "hub/model"
    monkeypatch.delenv("SKIN_TEST_MODEL")
    with pytest.raises(ConfigError, match=r"c\.yaml.*SKIN_TEST_MODEL"):
        load_config(path)


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim: {bach_size: 1}",
            r"c\.yaml: unknown key 'optim\.bach_size'; did you mean 'optim\.batch_size'\?",
        ),
        ("sed: 1", r"c\.yaml: unknown key 'sed'; did you mean 'seed'\?"),
        ("log: {zzzz: 1}", r"c\.yaml: unknown key 'log\.zzzz'; valid: log\.every, log\.validate_every"),
        ("optim: {batch_size: two}", r"c\.yaml: 'optim\.batch_size' is 'two'; it must be a whole number"),
        ("optim: {batch_size: 2.5}", r"c\.yaml: 'optim\.batch_size' is 2\.5; it must be a whole number"),
        ("optim: {batch_size: true}", r"c\.yaml: 'optim\.batch_size' is true; it must be a whole number"),
        ("optim: {batch_size: 1:30}", r"c\.yaml: 'optim\.batch_size' is '1:30'; it must be a whole number"),
        ("optim: {batch_size: {a: b}}", r"'optim\.batch_size' is {'a': 'b'}; it must be a whole number"),
        ("optim: {batch_size: }", r"c\.yaml: 'optim\.batch_size' is null; it must be a whole number"),
        ("optim: {init_lr: [1]}", r"c\.yaml: 'optim\.init_lr' is \[1\]; it must be a number"),
        (f"optim: {{init_lr: {'9' * 400}}}", r"c\.yaml: 'optim\.init_lr' is 999.*; it must be a number"),
        (
            "data: {train: one.jsonl}",
            r"c\.yaml: 'data\.train' is 'one.jsonl'; it must be a list, e\.g\. \[a, b\]",
        ),
        ("data: {train: [[a]]}", r"c\.yaml: 'data\.train\[0\]' is \['a'\]; it must be text"),
        ("data: {augment: maybe}", r"c\.yaml: 'data\.augment' is 'maybe'; it must be true or false"),
        ("vision: {block: first}", r"c\.yaml: 'vision\.block' is 'first'; it must be a whole number or null"),
        ("vision: {model_args: [a]}", r"'vision\.model_args' is \['a'\]; it must be a group of `key: value`"),
        ("prompt: {template: [a]}", r"c\.yaml: 'prompt\.template' is \['a'\]; it must be text"),
        (
            "optim: {batch_size: 1, batch_size: 2}",
            r"c\.yaml: is not valid YAML .*'batch_size' stands here twice",
        ),
        (
            "prompt: {template: '${a'}",
            r"c\.yaml: 'prompt\.template': holds a '\$\{' that begins no reference",
        ),
        ("prompt: {template: '${seeed}'}", r"c\.yaml: 'prompt\.template': .*'seeed' not found"),
        ("seed: '${prompt.template}'", r"c\.yaml: 'seed' is 'vicuna'; it must be a whole number"),
        ("vision: eva", r"c\.yaml: 'vision' must be a group of keys, found 'eva'"),
        ("optim:", r"c\.yaml: 'optim' must be a group of keys, found null"),
        ("data: [a]", r"c\.yaml: 'data' must be a group of keys"),
        ("optim: {batch_size: 0}", r"'optim\.batch_size' is 0; it must be above 0"),
        ("optim: {init_lr: .nan}", r"'optim\.init_lr' is nan; it must be above 0"),
        ("qformer: {width: 100, num_heads: 12}", r"'qformer\.width' \(100\) must be a multiple .*\(12\)"),
        ("extends: c.yaml", r"c\.yaml: extends itself through c\.yaml"),
        ("extends: gone.yaml", r"gone\.yaml: no such config"),
        ("a: [1", r"c\.yaml: is not valid YAML"),
        ("---\nseed: 1\n---\nseed: 2", r"c\.yaml: is not valid YAML"),
    ],
)
def test_mistakes_are_refused_with_file_and_key(text, message, write):
    path = write(BASE + text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optim.bach_size=1",
            r"override 'optim\.bach_size=1': unknown key .* did you mean 'optim\.batch_size'\?",
        ),
        ("optim.batch_size=two", r"override 'optim\.batch_size=two': 'optim\.batch_size'"),
        ("step=step3", r"c\.yaml: 'step' is 'step3'; choose one of align, step1, step2, dpo, none"),
        ("language.dtype=int8", r"'language\.dtype' is 'int8'; choose one of auto, float32"),
        ("optim=3", r"override 'optim=3': 'optim' must be a group"),
        ("optim.batch_size", r"write it as key=value"),
        ("=3", r"write it as key=value"),
        ("data.train=[a", r"override 'data\.train=\[a'"),
        (
            "data.feature_views=2",
            r"feature_views' above 1 keeps random crops; it needs",
        ),
        ("data.batching=grouped_", r"'data\.batching' is .*; did you mean 'grouped'"),
        ("data.num_workers=-1", r"'data\.num_workers' is -1; it must not be negative"),
        ("optim.beta1=1", r"'optim\.beta1' is 1\.0; it must lie in 0\.\.1, below 1"),
        ("optim.max_grad_norm=0", r"'optim\.max_grad_norm' is 0\.0; it must be above 0"),
        ("lora.rank=-1", r"'lora\.rank' is -1; it must not be negative"),
        ("lora.dropout=1", r"'lora\.dropout' is 1\.0; it must lie in 0\.\.1, below 1"),
        (
            "prompt.other_questions={Why: '{note}'}",
            r"'Why': it may hold no placeholder but \{disease\} and \{concepts\}",
        ),
        ("prompt.other_questions={Why: ' '}", r"'Why': it needs an answer"),
        ("prompt.concepts_share=1.5", r"'prompt\.concepts_share' is 1\.5; it must lie in 0\.\.1"),
        ("vision.std=[1,1]", r"'vision\.std' is \[1\.0, 1\.0\]; it must have three values"),
        ("encoder.backend=lavis", r"'encoder\.backend' lavis needs vision\.norm_eps: 1e-05, found None"),
        ("data.feature_cache=runs/features", r"'data\.augment' and 'data\.feature_cache' exclude each other"),
        ("data.train.0=a", r"override 'data\.train\.0=a'"),
    ],
)
def test_mistakes_on_the_command_line(override, message, write):
    with pytest.raises(ConfigError, match=message):
        load_config(write(BASE), [override])


@pytest.mark.parametrize("text", ["- 1\n- 2", "just words", "3"])
def test_a_file_without_keys(text, write):
    with pytest.raises(ConfigError, match=r"c\.yaml: must hold `key: value` lines"):
        load_config(write(text))


@pytest.mark.parametrize(
    ("text", "key"),
    [("", "step"), ("step: step1", "output_dir"), ("step: step1\noutput_dir: o", "language.model")],
)
def test_required_values(text, key, write):
    with pytest.raises(ConfigError, match=rf"c\.yaml: '{key}' is not set; .* extends this one"):
        load_config(write(text))


def test_an_empty_parent_adds_nothing(write):
    write("", "empty.yaml")
    assert load_config(write(BASE + "extends: empty.yaml")) == load_config(write(BASE, "d.yaml"))


def test_a_missing_file_names_its_neighbour(write):
    path = write(BASE, "step1.yaml")
    with pytest.raises(ConfigError, match=r"stpe1\.yaml: no such config; did you mean '.*step1\.yaml'\?"):
        load_config(path.with_name("stpe1.yaml"))


def test_a_missing_file_is_not_offered_a_hidden_one(tmp_path):
    (tmp_path / ".tool.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config$"):
        load_config(tmp_path / "none.yaml")


def test_a_longer_circle_is_named(write):
    write("extends: b.yaml", "a.yaml")
    path = write("extends: a.yaml", "b.yaml")
    with pytest.raises(ConfigError, match=r"extends itself through b\.yaml -> a\.yaml"):
        load_config(path)


def test_unreadable_files(write, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    path = write("")
    path.write_bytes(b"seed: \xff\xfe")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read"):
        load_config(path)


@pytest.mark.parametrize("value", ["", "3", "[1]"])
def test_extends_of_a_wrong_type(value, write):
    with pytest.raises(ConfigError, match=r"c\.yaml.*extends"):
        load_config(write(BASE + f"extends: {value}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt: {questions: []}", r"'prompt\.questions' is \[\]; give at least one"),
        (
            "prompt: {concepts_sentence: 'It shows {concept}.'}",
            r"'prompt\.concepts_sentence' .* no placeholder but \{concepts\}",
        ),
        (
            "prompt: {disease_sentence: 'It is {}.'}",
            r"'prompt\.disease_sentence' .* no placeholder but \{disease\}",
        ),
        (
            "prompt: {disease_sentence: 'It is {disease.__class__}.'}",
            r"'prompt\.disease_sentence' .* no placeholder but \{disease\}",
        ),
        (
            "prompt: {disease_sentence: 'It is {disease:>9999999999}.'}",
            r"'prompt\.disease_sentence' .* no placeholder but \{disease\}",
        ),
        ("seed: -1", r"'seed' is -1; it must not be negative"),
        (f"seed: {2**63}", r"'seed' is 9223372036854775808; it must be a whole number"),
        (
            "prompt: {template: '${oc.env:NO_SUCH_NAME}'}",
            r"'prompt.template': Environment variable 'NO_SUCH_NAME' not found$",
        ),
        ("prompt: {template: '${oc.foo:1}'}", r"'prompt.template': Unsupported reference type oc\.foo$"),
        (
            "vision: {model_args: {pretrained: true}}",
            r"model_args' is .*; 'pretrained' loads weights; name their",
        ),
        ("vision: {model_args: {checkpoint_path: /x}}", r"'checkpoint_path' loads weights"),
        ("vision: {model_args: {depth: 1000000000}}", r"its numbers must be at most 100,000"),
        ("vision: {model_args: {depth: 50000}}", r"its depth must be at most 1,000"),
        ("vision: {image_size: 1000000}", r"'vision\.image_size' is 1000000; it must be at most 4,096"),
        ("qformer: {num_layers: 1000000}", r"'qformer\.num_layers' is 1000000; it must be at most 1,000"),
    ],
)
def test_values_that_no_run_can_use(text, message, write):
    with pytest.raises(ConfigError, match=message):
        load_config(write(BASE + text))


@pytest.mark.parametrize(
    "word",
    ["no", "off", "yes", "true", "010", "12_3", "1.10", "1:30", "2026-11-28", "1e3", "0x1f", ".inf", "null_"],
)
def test_a_word_that_yaml_takes_for_a_number_or_a_boolean_is_text_where_text_belongs(word, write):
    path = write(
        f"step: step1\noutput_dir: {word}\nlanguage: {{model: {word}}}\nprompt: {{questions: [{word}]}}\n"
    )
    config = load_config(path, [f"prompt.template={word}", f"data.train=[{word}]"])
    read = [config.output_dir, config.language.model, config.prompt.template]
    assert [*read, *config.prompt.questions, *config.data.train] == [word] * 5
    with pytest.raises(
        ConfigError, match=rf"'language\.compile' is '{re.escape(word)}'; choose one of auto, always"
    ):
        load_config(path, [f"language.compile={word}"])


@pytest.mark.parametrize(
    ("word", "value"), [("no", False), ("off", False), ("Yes", True), ("on", True), ("true", True)]
)
def test_the_same_words_are_booleans_where_a_boolean_belongs(word, value, write):
    assert load_config(write(BASE + f"data: {{augment: {word}}}")).data.augment is value
    assert load_config(write(BASE), [f"data.augment={word}"]).data.augment is value


def test_every_key_is_text(write):
    config = load_config(
        write(BASE + "vision: {model_args: {no: 1, 01: 2, 1.0: 3}}"), [r"vision.model_args.a\.b=4"]
    )
    assert config.vision.model_args == {"no": 1, "01": 2, "1.0": 3, "a.b": 4}


def test_files_that_extend_each_other_many_times_are_refused_soon(write):
    write(BASE, "f0.yaml")
    for number in range(1, 40):
        write(f"extends: [f{number - 1}.yaml, f{number - 1}.yaml]", f"f{number}.yaml")
    with pytest.raises(ConfigError, match="extends more than 100 files"):
        load_config(write("extends: f39.yaml"))
    for number in range(1, 200):
        write(f"extends: g{number - 1}.yaml", f"g{number}.yaml")
    with pytest.raises(ConfigError, match="is extended through more than 100 files"):
        load_config(write("extends: g199.yaml"))


# ---- what a checkpoint's card may say


def test_a_stored_text_never_refers_to_the_environment(write, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hf_secret")
    values = to_dict(load_config(write(BASE)))
    for text in ("${oc.env:SECRET_TOKEN}", "${seed}", r"\${seed}", "${", "a ${oc.env:HOME} b"):
        values["prompt"]["questions"] = [text]
        values["prompt"]["template"] = values["vision"]["model_args"]["x"] = text
        config = from_dict(values, "card")
        assert [*config.prompt.questions, config.prompt.template, config.vision.model_args["x"]] == [text] * 3
        copy = write(to_yaml(config), "copy.yaml")
        assert load_config(copy) == config, "nor does the configuration that a run writes into its folder"
    with pytest.raises(
        ConfigError, match=r"card: 'seed' is '\$\{oc\.env:SECRET_TOKEN\}'; it must be a whole number"
    ):
        from_dict({**values, "seed": "${oc.env:SECRET_TOKEN}"}, "card")


def test_numbers_in_free_arguments(write):
    config = load_config(write(BASE + "vision: {model_args: {init_values: 1e-6}}"))
    assert config.vision.model_args == {"init_values": 1e-6}


# ---- round trips

texts = (
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
    | st.text("\\${}:.ab", min_size=1, max_size=12)
    | st.sampled_from(["no", "off", "01", "1e3", "2026-11-28", "${oc.env:HOME}", "null", "~", "<<", "true"])
).filter(lambda text: text != "???")
configs = st.builds(
    Config,
    step=st.sampled_from(["step1", "step2", "none"]),
    output_dir=texts,
    initial_checkpoint=st.none() | texts,
    seed=st.integers(0, 2**31),
    vision=st.builds(
        VisionConfig,
        model_args=st.dictionaries(
            texts, st.none() | st.booleans() | st.integers(-9, 99_999) | texts, max_size=2
        ),
        block=st.none() | st.integers(1, 40),
        mean=st.none() | st.lists(st.floats(0, 1), min_size=3, max_size=3),
    ),
    language=st.builds(LanguageConfig, model=texts),
    prompt=st.builds(PromptConfig, questions=st.lists(texts, min_size=1, max_size=3), use_note=st.booleans()),
    data=st.builds(DataConfig, train=st.lists(texts, max_size=2)),
    optim=st.builds(OptimConfig, init_lr=st.floats(1e-9, 1), min_lr=st.floats(0, 1e-3)),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("configs") / "c.yaml"


@given(config=configs)
@settings(max_examples=25, deadline=None)
def test_yaml_and_dict_round_trips(scratch, config):
    scratch.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(scratch) == config
    assert from_dict(to_dict(config), "card") == config


def test_dict_shares_nothing_with_the_config(write):
    config = load_config(write(BASE))
    to_dict(config)["prompt"]["questions"].append("another")
    assert config == load_config(write(BASE))


def test_from_dict_names_its_source(write):
    values = to_dict(load_config(write(BASE)))
    with pytest.raises(ConfigError, match=r"checkpoint\.json: unknown key 'optim\.gone'"):
        from_dict({**values, "optim": {**values["optim"], "gone": 1}}, "checkpoint.json")
    with pytest.raises(ConfigError, match=r"checkpoint\.json: 'seed'"):
        from_dict({**values, "seed": "x"}, "checkpoint.json")


# ---- keys of version 0.1 that are gone


@pytest.mark.parametrize("name", upgrade.REMOVED)
def test_a_removed_key_is_refused_in_a_users_file_and_passed_over_in_an_old_card(name, write):
    group, key = name.split(".")
    value = upgrade.REMOVED[name]
    for source in (write(f"{BASE}extends: b.yaml"), write(BASE, "d.yaml")):
        write(f"{group}: {{{key}: {value}}}", "b.yaml")
        given = [f"{name}={value}"] if source.name == "d.yaml" else []
        with pytest.raises(
            ConfigError, match=rf"'{name}' was removed in 0\.2\.0, which always uses .*; delete"
        ):
            load_config(source, given)
    config = load_config(write(BASE))
    old = to_dict(config)
    old[group][key] = value
    assert from_dict(old, "checkpoint.json") == config
    assert old[group][key] == value  # the caller's values stay as they are
    old[group][key] = "another"
    with pytest.raises(ConfigError, match=rf"^checkpoint\.json: '{name}' was removed in 0\.2\.0"):
        from_dict(old, "checkpoint.json")


def test_a_key_between_two_releases_is_passed_over_in_a_card_with_todays_value_alone(write):
    config = load_config(write(BASE))
    card = to_dict(config)
    card["projection"] |= {"start": "random", "start_iterations": None}
    assert from_dict(card, "checkpoint.json") == config
    card["projection"]["start"] = "labels"
    with pytest.raises(ConfigError, match=r"unknown key 'projection\.start'"):
        from_dict(card, "checkpoint.json")


def test_a_removed_value_is_read_as_what_computes_the_same(write):
    with pytest.raises(ConfigError, match="packed"):
        load_config(write(BASE), ["data.batching=packed"])
    old = to_dict(load_config(write(BASE)))
    old["data"]["batching"] = "packed"
    assert from_dict(old, "checkpoint.json").data.batching == "auto"


@pytest.mark.parametrize("change", [{"step": "???"}, {"step": "step3"}])
def test_from_dict_refuses_what_load_config_refuses(change, write):
    values = to_dict(load_config(write(BASE)))
    with pytest.raises(ConfigError, match=r"checkpoint\.json.*step"):
        from_dict({**values, **change}, "checkpoint.json")


# ---- bundled weights


def test_bundled_weights_are_found_from_any_folder_and_written_with_their_relative_path(
    tmp_path, monkeypatch
):
    name = "skingpt4/weights/bundled/qformer_captions.safetensors"
    path, overrides = ROOT / "configs/tiny/step1.yaml", ["vision.weights=null", "data.train=[]"]
    monkeypatch.chdir(ROOT)
    here = load_config(path, overrides)
    assert here.qformer.weights == name  # from the project's own folder nothing changes
    monkeypatch.chdir(tmp_path)
    there = load_config(path, overrides)
    assert Path(there.qformer.weights).samefile(ROOT / name)
    assert Path(there.initial_checkpoint).samefile(ROOT / here.initial_checkpoint)
    assert not any("qformer.weights" in line for line in missing_paths(there))
    assert to_dict(there) == to_dict(here)
    assert to_yaml(there) == to_yaml(here)
    assert from_dict(to_dict(there), "card") == there
    old = to_dict(there)
    old["qformer"]["weights"] = "skingpt4/assets/qformer_captions.safetensors"  # in the folder of version 0.1
    assert from_dict(old, "card") == there
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert load_config(path, overrides).qformer.weights == name  # a file of the working folder comes first


# ---- the shipped files

# Those of accelerate's launcher: tests/skingpt4/training/distributed/test_launchers.py
FILES = [path for path in sorted((ROOT / "configs").rglob("*.y*ml")) if path.parent.name != "accelerate"]
RAW = {path: yaml.safe_load(path.read_text()) or {} for path in FILES}
SHIPPED = [
    path for path in FILES if "recipe" not in RAW[path]
]  # recipes: tests/skingpt4/doctor/test_recipes.py


def _parents(path):
    names = RAW[path].get("extends", [])
    return [(path.parent / name).resolve() for name in ([names] if isinstance(names, str) else names)]


# A file that others extend and that names no step is a part, completed here with what it leaves open.
EXTENDED = {parent for path in FILES for parent in _parents(path)}
EXTENDED |= {path.resolve() for path in SHIPPED if path.parent.name == "encoders"}  # by the user's own file
PARTS = {path for path in SHIPPED if path.resolve() in EXTENDED and "step" not in RAW[path]}


def test_configs_are_shipped():
    assert SHIPPED
    assert set(SHIPPED) != PARTS


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_shipped_config(path, scratch, monkeypatch):
    for name in re.findall(r"\$\{oc\.env:(\w+)", "".join(p.read_text() for p in SHIPPED)):
        monkeypatch.setenv(name, "anywhere")
    fill = ["step=none", "output_dir=runs/x"] if path in PARTS else []
    if path in PARTS and "model" not in RAW[path].get("language", {}):
        fill.append("language.model=hub/model")
    config = load_config(path, fill)
    get_template(config.prompt.template)
    assert say_concepts(config.prompt.concepts_sentence, ["Plaque"]) != say_concepts(
        config.prompt.concepts_sentence, []
    )
    config.prompt.disease_sentence.format(disease="psoriasis")
    assert config.prompt.questions
    assert not (config.data.augment and config.data.feature_cache)
    for value in _strings(RAW[path]):
        assert not value.startswith(("/", "~")), f"{value}: paths in shipped configs are relative"
    scratch.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(scratch) == config


@pytest.mark.parametrize("folder", ["paper", "tiny"])
def test_every_key_of_a_base_file_has_a_comment_above_it(folder):
    lines = (ROOT / "configs" / folder / "base.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *\w+:", line)]
    assert len(keys) > 15
    assert [lines[number] for number in keys if not re.match(r" *# \w", lines[number - 1])] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_file_begins_with_what_it_is(path):
    assert re.match(r"# [A-Z]", path.read_text())


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
