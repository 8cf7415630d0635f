"""What the local hooks let into a commit; everything that is tracked passes them, and planted things do not."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
HOOKS = {hook["id"]: hook for hook in CONFIG["repos"][0]["hooks"]}
# Put together here, so that this file passes the hook too.
SECRETS = (
    "hf" + "_" + "a1B2" * 8, "ghp" + "_" + "a1B2" * 9, "sk" + "-" + "a1B2" * 9, "AKIA" + "ABCD" * 4,
    "-----BEGIN RSA " + "PRIVATE KEY-----", "https://anna:" + "password1@example.org/x", "AIza" + "a1B2c" * 7,
)  # fmt: skip


@pytest.fixture(scope="module")
def tracked():
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_refused(secret):
    assert re.search(HOOKS["secrets"]["entry"], f'token = "{secret}"')


def test_no_tracked_file_holds_a_secret(tracked):
    pattern = re.compile(HOOKS["secrets"]["entry"].encode())
    assert [name for name in tracked if pattern.search((ROOT / name).read_bytes())] == []


def test_a_large_file_is_refused_and_the_tracked_ones_are_small_or_listed(tracked, tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large file").write_bytes(b"x" * 600_000)
    hook = shlex.split(HOOKS["large"]["entry"])
    for names, status in ((["small"], 0), (["small", "large file"], 1)):
        assert subprocess.run([*hook, *names], cwd=tmp_path, capture_output=True).returncode == status
    listed = re.compile(HOOKS["large"]["exclude"])
    assert [n for n in tracked if (ROOT / n).stat().st_size > 500 * 1024 and not listed.search(n)] == []
