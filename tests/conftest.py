"""What several folders share: a profile, one thread, tokenizers, and real processes without their imports."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run and no clock: a busy machine is no failure.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

ROOT = Path(__file__).parents[1]
# For torch, here and in processes that tests start: sums this small only get slower, up to tenfold, when threads
# share them, and `make test` runs a test on each core already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What `make test-core` runs: from a prompt and an image to a loss, a step and an answer.
CORE = (
    "skingpt4/model/test_network.py", "skingpt4/model/encoders/test_encoder.py", "skingpt4/model/test_qformer.py",
    "skingpt4/model/test_language.py", "skingpt4/model/test_prompts.py", "skingpt4/model/test_loss.py",
    "skingpt4/training/test_samples.py", "skingpt4/checkpoints/test_checkpoint.py",
)  # fmt: skip

# The files that take longest, these first: `make test` hands a file to whichever process is free, and one that takes
# minutes and comes last leaves the other process idle. `pytest --durations=0` says which they are.
# The decoding process comes before all: its limits of memory are tried from a test process that has not grown yet.
SLOW = (
    "skingpt4/server/decoding/test_process.py",
    "examples/test_own_data.py", "examples/test_cluster.py", "skingpt4/training/test_loop.py",
    "e2e/test_consultation_page.py", "eval/test_run.py", "skingpt4/server/http/test_hostile.py",
    "skingpt4/doctor/test_recipes.py", "benchmarks/memory/test_encoder.py", "skingpt4/cli/deploy/test_bundle.py",
    "skingpt4/server/test_privacy.py", "skingpt4/training/distributed/test_launchers.py",
    "skingpt4/training/distributed/test_equality.py", "skingpt4/training/distributed/test_processes.py",
    "skingpt4/training/test_compiled.py", "skingpt4/doctor/test_doctor.py", "test_named_encoder.py",
    "e2e/test_accessibility.py", "e2e/test_reverse_proxy.py", "e2e/test_hospital.py", "eval/rating/test_form.py",
    "skingpt4/server/test_gradio_guard.py", "skingpt4/server/access/test_visitors.py", "test_whole_run.py",
    "benchmarks/speed/test_chat_and_serving.py", "benchmarks/speed/test_gpu.py", "eval/test_run_processes.py",
    "skingpt4/training/test_kills.py", "skingpt4/cli/training/test_recipe_processes.py", "eval/test_report.py",
    "eval/page/test_report_sections.py", "eval/page/test_partial_arms.py", "test_platforms.py",
    "skingpt4/training/preferences/test_dpo.py", "skingpt4/chat/checks/test_quality.py",
)  # fmt: skip


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # else the files with the most tests come first


def pytest_collection_modifyitems(items):
    for item in items:
        if name_of(item) in CORE:
            item.add_marker("core")
    places = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(name_of(item), len(SLOW)))


def pytest_collection_finish(session):
    """What collection imported stays; the garbage collector would look through it again and again."""
    gc.collect()
    gc.freeze()


def name_of(item):
    return item.path.relative_to(ROOT / "tests").as_posix()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Captured texts of odd file names as parallel test processes can send them."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk():
    """No test cuts the power, and a disk takes milliseconds to confirm each of the thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def launcher():
    """Forks commands from a process that has everything imported."""
    from tests.support.launcher import Launcher

    with Launcher() as running:
        yield running


@pytest.fixture(scope="session")
def byte_tokenizer():
    """One token per byte (its value + 10), Falcon's end token as 0; no bos, as Falcon has none."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # ByteLevel writes byte values as printable letters; the printable ones stand for themselves.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letter = {b: chr(b) for b in visible} | {b: chr(256 + n) for n, b in enumerate(hidden)}
    vocabulary = {"<|endoftext|>": 0, **{letter[b]: b + 10 for b in range(256)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def smollm2_tokenizer():
    """The bundled default's tokenizer; tests that use it are marked `default`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "weights" / "smollm2-135m-instruct")
