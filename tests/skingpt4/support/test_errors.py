"""How a command ends when it cannot go on."""

import subprocess
import sys


def test_a_reader_that_has_had_enough_ends_a_command_without_a_word():
    code = (
        "import sys\nfrom skingpt4.support.errors import reported\n"
        "with reported() as status:\n    for number in range(100_000):\n        print(number)\n"
        "sys.exit(status.code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()
