#!/bin/bash
# Run a command and write its exit status to FOLDER/RANK, since launchers end with 1 whatever their processes ended with:
#   keep_status.sh FOLDER COMMAND [ARGUMENT ...]
# Research software, not a medical device.
set -u
folder=${1:?name a folder}
shift
trap : TERM INT HUP USR1 # the command acts on them; this shell waits for it
"$@"
status=$?
mkdir -p "$folder" && echo "$status" > "$folder/${RANK:-0}"
exit "$status"
