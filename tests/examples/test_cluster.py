"""The examples for clusters: real runs of two nodes on this machine; small scripts stand for Slurm's commands."""

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from skingpt4.checkpoints import checkpoint
from skingpt4.config.load import to_yaml
from tests.support.kill_trials import metrics_of
from tests.support.tiny import tiny_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples/cluster"
SCRIPTS = sorted((*CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch")))
PATIENCE = 600  # seconds

# Starts a task on each node, as srun does: here all on this machine.
SRUN = """#!/bin/bash
while [[ ${1:-} == --* ]]; do shift; done
tasks=()
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & tasks+=($!); done
trap : TERM
worst=0
for task in "${tasks[@]}"; do
  wait "$task"; status=$?
  while kill -0 "$task" 2> /dev/null; do wait "$task"; status=$?; done
  [ $status -gt $worst ] && worst=$status
done
exit $worst
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && echo 127.0.0.1
echo "$@" >> "$FAKE/calls"
"""
# torchrun, which kills 30 seconds after it was stopped; a busy machine needs longer to save.
PATIENT_TORCHRUN = (
    "from torch.distributed.elastic.multiprocessing.api import PContext as C; close = C.close; "
    "C.close = lambda self, number=None, timeout=30: close(self, number, 600); "
    "from torch.distributed.run import main; main()"
)
# What srun would start, one word a line, in place of starting it; the statuses of FAKE_STATUSES are left.
RECORD = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKE/words"
folder=runs/slurm/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
mkdir -p "$folder"; rank=0
for status in $FAKE_STATUSES; do echo "$status" > "$folder/$rank"; rank=$((rank + 1)); done
exit 1
"""


@pytest.fixture
def cluster(tmp_path):
    """A project's folder as a job sees it, and the environment of a job of two nodes with one process each."""
    project, fake = tmp_path / "project", tmp_path / "fake"
    project.mkdir()
    fake.mkdir()
    for name in ("train.py", "examples", "configs", "weights"):
        (project / name).symlink_to(ROOT / name)
    programs = {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "torchrun": f"#!/bin/bash\nexec {sys.executable} -c '{PATIENT_TORCHRUN}' \"$@\"\n",
    }
    for name, text in programs.items():
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "ACCELERATE_"))}
    environment = {
        **own, "FAKE": str(fake), "PATH": f"{fake}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo", "SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "1",
    }  # fmt: skip
    return project, fake, environment


def recorded(cluster, script, *arguments, statuses="", **more):
    """Run a script whose srun only records; returns the finished process and srun's words."""
    project, fake, environment = cluster
    (fake / "srun").write_text(RECORD)
    done = subprocess.run(
        ["bash", f"examples/cluster/{script}", *arguments], cwd=project, capture_output=True, text=True,
        env={**environment, "FAKE_STATUSES": statuses, **more}, timeout=60,
    )  # fmt: skip
    return done, (fake / "words").read_text().splitlines()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_and_says_what_it_is(path):
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    text = path.read_text()
    assert "not a medical device" in text
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_shellcheck_has_nothing_to_say(path):
    done = subprocess.run(["shellcheck", "-s", "bash", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# ---- the words of the scripts, read by the real parsers


def program_of(words):
    """What the recorded words start on the second node."""
    place = words.index("launcher")
    return [word.replace("__NODE__", "1") for word in words[place + 1 :]]


def parsed_by_train(words, monkeypatch):
    import argparse

    class Parsed(Exception):
        pass

    real = argparse.ArgumentParser.parse_intermixed_args

    def parse(self, args=None, namespace=None):
        raise Parsed(real(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse)
    with pytest.raises(Parsed) as parsed:
        importlib.import_module("train").main(words)
    return parsed.value.args[0]


def test_the_words_of_torchrun_are_understood(cluster, monkeypatch):
    _, words = recorded(cluster, "train.sbatch", "configs/tiny/step1.yaml", "optim.batch_size=1")
    program = program_of(words)
    assert program[0] == "torchrun"
    args = get_args_parser().parse_args(program[1:])
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.master_addr) == ("2", "1", 1, "127.0.0.1")
    assert args.no_python
    assert args.training_script == "examples/cluster/keep_status.sh"
    start = args.training_script_args.index("train.py")
    train = parsed_by_train(args.training_script_args[start + 1 :], monkeypatch)
    assert (train.config, train.resume, train.overrides) == (
        "configs/tiny/step1.yaml",
        True,
        ["optim.batch_size=1"],
    )


def test_the_words_of_accelerate_are_understood(cluster):
    config = "configs/accelerate/fsdp2_vicuna13b.yaml"
    _, words = recorded(cluster, "train.sbatch", "c.yaml", ACCELERATE_CONFIG=config, SLURM_GPUS_ON_NODE="8")
    program = program_of(words)
    assert program[:2] == ["accelerate", "launch"]
    args = launch_command_parser().parse_args(program[2:])
    assert (args.config_file, args.num_machines, args.num_processes, args.machine_rank) == (config, 2, 16, 1)
    assert args.no_python
    assert args.training_script == "examples/cluster/keep_status.sh"


def test_the_words_of_an_evaluation_are_understood(cluster):
    from eval import run

    own = ["--config", "c.yaml", "--cases", "c.jsonl", "--run-dir", "runs/study", "--arm", "a=b"]
    _, words = recorded(cluster, "evaluate.sbatch", *own)
    args = get_args_parser().parse_args(program_of(words)[1:])
    assert args.module
    assert args.training_script == "eval.run"
    assert args.training_script_args == own
    assert run._parser().parse_intermixed_args(own).arm == ["a=b"]


# ---- what becomes of a job


@pytest.mark.parametrize(
    ("statuses", "status", "requeued"),
    [
        ("0 0", 0, False),
        ("75 75", 75, True),
        ("75 137", 75, True),  # killed after 30 seconds, when the other one had saved
        ("1 75", 1, False),
        ("74 75", 74, False),
        ("2 2", 2, False),
        ("130 130", 130, False),
        ("", 1, False),  # no process began
    ],
)
def test_a_job_is_requeued_where_another_try_helps(cluster, statuses, status, requeued):
    done, _ = recorded(cluster, "train.sbatch", "c.yaml", statuses=statuses)
    assert done.returncode == status, done.stderr
    calls = (cluster[1] / "calls").read_text()
    assert (f"requeue {os.getpid()}" in calls) == requeued
    if status and not requeued:
        assert "error: processes ended with" in done.stderr


def test_a_job_is_not_requeued_for_ever(cluster):
    more = {"SLURM_RESTART_COUNT": "3", "MAX_RESTARTS": "3"}
    done, _ = recorded(cluster, "train.sbatch", "c.yaml", statuses="75 75", **more)
    assert done.returncode == 75
    assert "not requeued after 3 times" in done.stderr
    assert "requeue" not in (cluster[1] / "calls").read_text()


# ---- real processes


def until(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.acceptance
def test_a_job_of_two_nodes_is_stopped_as_slurm_does_it_and_continues(cluster, tmp_path):
    """Every process receives SIGTERM, and torchrun passes its own on."""
    project, fake, environment = cluster
    config = tiny_config(
        tmp_path, output_dir=str(tmp_path / "run"), data__feature_cache=str(tmp_path / "features"),
        data__augment=False, optim__max_epoch=1, optim__iters_per_epoch=100,
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = ["bash", "examples/cluster/train.sbatch", str(tmp_path / "config.yaml")]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
        until(lambda: (tmp_path / "run/metrics.jsonl").is_file() and len(metrics_of(config)) >= 2, job)
        for process in psutil.Process(job.pid).children(recursive=True):
            process.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE) == 75, (tmp_path / "log").read_text()
        assert f"requeue {os.getpid()}" in (fake / "calls").read_text()
        statuses = project / f"runs/slurm/{os.getpid()}.0"
        assert [(statuses / rank).read_text() for rank in "01"] == ["75\n", "75\n"]
        before = metrics_of(config)
        assert 2 <= len(before) < 100
        again = {**environment, "SLURM_RESTART_COUNT": "1"}
        done = subprocess.run(command, cwd=project, env=again, stdout=log, stderr=log, timeout=PATIENCE)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    after = metrics_of(config)
    assert after[: len(before)] == before
    assert [line["iteration"] for line in after if line["kind"] == "train"] == list(range(1, 101))
    card = checkpoint.load(config.output_dir)[1]
    assert card["num_processes"] == 2


@pytest.mark.acceptance
def test_two_hosts_without_a_scheduler(cluster, tmp_path):
    """The same line on both, as two nodes of one process each."""
    project, _, environment = cluster
    config = tiny_config(tmp_path, output_dir=str(tmp_path / "run"))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    alone = {key: value for key, value in environment.items() if not key.startswith("SLURM_")}
    port = str(20000 + os.getpid() % 10000)
    hosts = [
        subprocess.Popen(
            ["bash", "examples/cluster/two_hosts.sh", str(rank), "127.0.0.1", str(tmp_path / "config.yaml")],
            cwd=project, env={**alone, "PORT": port}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    texts = [host.communicate(timeout=PATIENCE)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], texts
    assert "checkpoint: " in texts[0]
    assert "checkpoint: " not in texts[1]
    assert checkpoint.load(config.output_dir)[1]["num_processes"] == 2


# ---- the page and the container


def commands(page):
    """The commands of a page's code blocks, continued lines joined."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        yield from (shlex.split(line, comments=True) for line in block.splitlines() if line.strip())


@pytest.mark.parametrize("page", ["docs/slurm.md", "docs/scale.md"])
def test_the_commands_of_the_pages_are_understood(page, monkeypatch):
    seen = set()
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        match words:
            case ["sbatch", script, *_]:
                assert (ROOT / script).is_file(), script
            case ["torchrun", *rest]:
                args = get_args_parser().parse_args(rest)
                assert args.training_script in ("train.py", "eval.run")
            case ["accelerate", "launch", *rest]:
                assert launch_command_parser().parse_args(rest).training_script == "train.py"
            case ["python", "-m", "benchmarks", name, *_]:
                from benchmarks.__main__ import COMMANDS

                assert name in COMMANDS
            case [path, *_] if path.startswith("examples/"):
                assert (ROOT / path).is_file(), path
        seen.add(words[0] if words else "")
    assert seen & {"sbatch", "python"}


def test_the_container_s_environment_is_the_image_s_and_the_network_s():
    lines = [
        line for line in (CLUSTER / "container.env").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Z_]+=\S+", line) for line in lines)
    values = dict(line.split("=", 1) for line in lines)
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name in ("HOME", "HF_HOME", "HF_HUB_OFFLINE", "NVIDIA_VISIBLE_DEVICES"):
        assert f"{name}={values[name]}" in dockerfile
    assert {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS"} <= values.keys()
