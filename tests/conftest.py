"""What several folders share: a profile, one thread, tokenizers, and real processes without their imports."""

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


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix() in CORE:
            item.add_marker("core")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Captured texts of odd file names as parallel test processes can send them."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


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
