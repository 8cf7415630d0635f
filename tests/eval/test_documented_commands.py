"""Every complete command of the pages about the evaluation is one that its program's own parser takes."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("arms", "evaluation", "review", "tasks")
ENTRIES = {"eval.tasks": "eval.tasks.__main__"}


class Parsed(BaseException):
    """What a command line was read as; raised so that the program ends there."""


def commands():
    """(page, words after `python -m`) of the code blocks; a line that ends with a backslash goes on."""
    for page in PAGES:
        text = (DOCS / f"{page}.md").read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("python -m "):
                yield page, shlex.split(line.replace(" ... ", " "), comments=True)[2:]


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(p, w, id=f"{p} {' '.join(w)}") for p, w in commands()]
)
def test_a_command_of_the_pages_is_understood(page, words, monkeypatch):
    module, *rest = words
    if (
        "..." in (DOCS / f"{page}.md").read_text(encoding="utf-8")
        and module == "eval.run"
        and "--config" not in rest
    ):
        rest += ["--config", "c.yaml", "--cases", "c.jsonl", "--run-dir", "run"]  # what the dots stand for
    for name in ("parse_args", "parse_intermixed_args"):
        real = getattr(argparse.ArgumentParser, name)

        def parse(self, args=None, namespace=None, real=real):
            found = real(self, args, namespace)
            if self.prog == "python -m eval.add":  # reads the kind alone
                return found
            raise Parsed(vars(found))

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    program = importlib.import_module(ENTRIES.get(module, module))
    with pytest.raises(Parsed):
        program.main(rest)


def test_there_are_commands_on_every_page_and_a_wrong_one_is_noticed(capsys):
    assert {page for page, _ in commands()} == set(PAGES)
    assert any(re.search("chat-template", " ".join(words)) for _, words in commands())
    from eval import report

    with pytest.raises(SystemExit):
        report.main(["--run-dir", "runs/study", "--no-such-option"])
    assert "no-such-option" in capsys.readouterr().err
