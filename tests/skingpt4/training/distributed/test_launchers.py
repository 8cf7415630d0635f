"""As many processes as were asked for, or none; accelerate's configurations and the lines that launch them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env

from skingpt4.config.load import load_config, to_yaml
from skingpt4.config.schema import ConfigError
from skingpt4.training.distributed import launchers
from skingpt4.training.distributed.launchers import ASKED, require_launched
from skingpt4.training.distributed.sharding import asked
from skingpt4.training.loop import run
from tests.support.kill_trials import metrics_of
from tests.support.ports import free_port
from tests.support.tiny import tiny_config

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("launchers")


VARIABLES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "LOCAL_WORLD_SIZE",
    "ACCELERATE_MIXED_PRECISION",
    ASKED,
    *launchers.SIZES,
)


@pytest.fixture
def launched(monkeypatch):
    """Sets the environment of a launcher, and nothing of another one."""

    def set_environment(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_environment


ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False"}
ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "num_gpus", "expected"),
    [
        ({}, 0, 1),
        ({}, 8, 1),
        (ACCELERATE, 0, 1),  # accelerate launch --num_processes 1
        (ADDRESS, 0, 1),  # exported by a script, and python started directly
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **ADDRESS}, 0, 2),  # torchrun
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", **ADDRESS, **ACCELERATE}, 4, 8),  # two nodes
        ({"WORLD_SIZE": "1", **ADDRESS, **ACCELERATE}, 0, 1),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 0, 3),
        ({"WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "2"}, 0, 8),  # srun starts torchrun
        ({"SLURM_STEP_NUM_TASKS": "1"}, 0, 1),
    ],
)
def test_the_launcher_s_number_of_processes(variables, num_gpus, expected, launched):
    launched(**variables)
    assert require_launched(num_gpus) == expected


@pytest.mark.parametrize(
    ("variables", "num_gpus", "sentence"),
    [
        (
            ACCELERATE | ADDRESS,
            0,
            r"started one, as it does .* fewer than two GPUs; start them with torchrun",
        ),
        (ACCELERATE | ADDRESS, 1, r"--num_processes 1$"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 0, r"SLURM_STEP_NUM_TASKS is 4: .*start torchrun in one task"),
        ({"WORLD_SIZE": "2", ASKED: "true"}, 2, r"FSDP is not supported here; train\.py spreads"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, 2, r"4 processes .* has 2 GPUs; .*--nproc-per-node 2"),
    ],
)
def test_processes_that_would_not_train_together_are_refused(variables, num_gpus, sentence, launched):
    launched(**variables)
    with pytest.raises(ConfigError, match=sentence):
        require_launched(num_gpus)


def test_a_run_of_fewer_processes_than_were_asked_for_is_refused(launched, folder, tmp_path):
    config = tiny_config(folder, output_dir=str(tmp_path / "run"))
    launched(**ACCELERATE, **ADDRESS)
    with pytest.raises(
        ConfigError, match="accelerate launch was asked for several processes and started one"
    ):
        run(config)
    assert not Path(config.output_dir).exists()


def test_the_launcher_s_dynamo_backend_changes_no_precision(launched, folder, monkeypatch):
    """Accelerate would compute matrix products in tf32 where its environment names a backend."""
    launched()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = launchers.make_accelerator(tiny_config(folder))
        assert accelerator.state.dynamo_plugin.backend == "NO"
        assert accelerator.mixed_precision == "no"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_processes_that_do_not_know_each_other_are_refused():
    """As when torchrun starts two, and accelerate sees no device to join them on."""
    launchers.require_started(2, 2)
    with pytest.raises(ConfigError, match="asked for 2 processes, and here 1 would compute; start them with"):
        launchers.require_started(2, 1)


def test_accelerate_launch_itself_is_refused_where_it_starts_one_process(tmp_path):
    """Its real environment, on a machine without several GPUs."""
    if torch.cuda.device_count() > 1:
        pytest.skip("accelerate starts two processes here")
    (tmp_path / "asked.py").write_text(
        "from skingpt4.training.distributed.launchers import require_launched\n"
        "try:\n    print(require_launched(0))\nexcept Exception as error:\n    print(error)\n"
    )
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no", str(tmp_path / "asked.py")],
        env={**clean, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert "accelerate launch was asked for several processes and started one" in done.stdout, done.stderr


# ---- configs/accelerate and the lines of docs/training.md

CONFIGS = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
LINES = re.findall(r"`(accelerate launch [^`]+)`", (ROOT / "docs/training.md").read_text())


def arguments_of(line):
    """What accelerate makes of a line, and the script's own arguments."""
    words = shlex.split(line.replace("HOST", "node0").replace("RANK", "1"))
    args = launch_command_parser().parse_args(words[2:])
    return _validate_launch_command(args)[0]


def test_every_configuration_has_a_line():
    assert len(CONFIGS) >= 6
    named = {re.search(r"--config_file (\S+)", line)[1] for line in LINES}
    assert named == {str(path.relative_to(ROOT)) for path in CONFIGS}


@pytest.mark.parametrize("line", LINES)
def test_a_documented_line_asks_for_what_its_configuration_says(line, launched, monkeypatch):
    launched()
    monkeypatch.chdir(ROOT)
    args = arguments_of(line)
    saved = yaml.safe_load(Path(args.config_file).read_text())
    assert args.training_script == "train.py"
    assert (args.num_processes, args.num_machines) == (saved["num_processes"], saved["num_machines"]) or (
        "--num_processes" in line or "--num_machines" in line
    )
    script = launch_script_arguments(args)
    config = load_config(script["config"], script["overrides"])
    for name, value in prepare_multi_gpu_env(args).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    with asked(config) as sharding:
        assert (sharding is not None) == (saved["distributed_type"] == "FSDP")
        if sharding is None:
            return
        assert config.data.feature_cache  # so that no process holds the image encoder
        assert sharding.read_by_first
        assert sharding.plugin.activation_checkpointing
        assert sharding.plugin.reshard_after_forward
        assert ("CPUOffloadPolicy" in type(sharding.plugin.cpu_offload).__name__) == (
            "--fsdp_offload_params true" in line
        )


def launch_script_arguments(args):
    words = args.training_script_args
    assert words[0] == "--config"
    return {"config": words[1], "overrides": words[2:]}


@pytest.mark.acceptance
def test_two_nodes_find_each_other(tmp_path):
    """The configuration for several nodes, started twice on one machine."""
    (tmp_path / "asked.py").write_text(
        "import os, torch.distributed\n"
        "from skingpt4.training.distributed.launchers import require_launched\n"
        "torch.distributed.init_process_group('gloo')\n"
        "print(require_launched(0), torch.distributed.get_world_size(), os.environ['GROUP_WORLD_SIZE'])\n"
    )
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    port = str(free_port())
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/nodes.yaml",
             "--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port,
             "--num_processes", "2", str(tmp_path / "asked.py")],
            cwd=ROOT, env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        printed = [node.communicate(timeout=600)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert all("2 2 2" in text for text in printed), printed


@pytest.mark.acceptance
def test_accelerate_launch_starts_what_it_was_asked_for(folder, tmp_path):
    """The documented way, for real, on two CPU processes with the layers in parts."""
    config = tiny_config(
        folder, output_dir=str(tmp_path / "run"), data__augment=False, optim__batch_size=1,
        data__feature_cache=str(tmp_path / "features"), language__compile="never",
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         "configs/accelerate/fsdp2_vicuna13b.yaml", "--num_processes", "2", "--main_process_port", "0",
         "train.py", "--config", str(tmp_path / "run.yaml")],
        cwd=ROOT, env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    assert (
        "note: FSDP2: 2 LlamaDecoderLayer, each in 2 parts, recomputed for the backward pass" in done.stdout
    )
    assert len([line for line in metrics_of(config) if line["kind"] == "train"]) == 4
