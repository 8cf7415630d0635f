#!/bin/bash
# Train on two hosts without a scheduler. On the first one (HEAD is its address, which the second one reaches):
#   examples/cluster/two_hosts.sh 0 HEAD configs/paper/step2_vicuna13b.yaml [key=value ...]
# and the same with 1 on the second one. Both have the same files, and data.feature_cache, if there is one, is in a folder that they share.
# The processes find and trust each other without a password: only on a network that nobody else is on.
# Research software, not a medical device.
set -u
rank=${1:?0 on the first host, 1 on the second} head=${2:?the address of the first host} config=${3:?a configuration}
shift 3
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} HF_HUB_OFFLINE=1
exec torchrun --nnodes 2 --node-rank "$rank" --nproc-per-node "${GPUS:-1}" --master-addr "$head" \
  --master-port "${PORT:-29500}" train.py --config "$config" --resume "$@"
