#!/bin/bash
# Labels a file of samples on a Slurm cluster: a job splits it into shards, an array of TASKS jobs
# labels them, and a last job says what is in the folder. Run it on the login node:
#
#   SAMPLES=samples.jsonl OUT=/shared/run JUDGE=/shared/models/judge-70b GPUS=4 TASKS=16 \
#       deploy/slurm/submit-labels.sh
#
#   SAMPLES       file of samples (docs/data.md)
#   OUT           folder that all nodes share: OUT/samples and OUT/labels are made in it
#   JUDGE         the model: each task starts a judge of its own. A folder that the nodes can read
#   SERVERS       or, in its place, judges that run already: HOST:PORT,HOST:PORT
#   CONSTITUTION  a name, or a file that the nodes can read; default: hhh
#   GPUS          GPUs of a task, over which its judge is split; default: 1
#   TASKS         tasks of the array; more than there are shards are of no use; default: 16
#   ROWS          rows of a shard, about; default: 2000
#
# Account, partition and time limit come from Slurm's own SBATCH_ACCOUNT, SBATCH_PARTITION and
# SBATCH_TIMELIMIT. A judge's settings are RLAIF_SERVE_<NAME>; the credentials for SERVERS are
# RLAIF_TOKEN and RLAIF_CA. `rlaif` must be on the PATH, here and so on the nodes.
# The same command again goes on where it stopped: a shard that is there is not made again.
set -euo pipefail

export SAMPLES=${SAMPLES:?give a file of samples}
export OUT=${OUT:?give a folder that all nodes share}
export CONSTITUTION=${CONSTITUTION:-hhh} GPUS=${GPUS:-1} TASKS=${TASKS:-16} ROWS=${ROWS:-2000}
export JUDGE=${JUDGE:-} SERVERS=${SERVERS:-}
gpus=()
if [[ -z $SERVERS ]]; then
    : "${JUDGE:?give the model of a judge, or SERVERS}"
    gpus=(--gpus-per-node="$GPUS")
fi
mkdir -p "$OUT/logs"

# A job id may be followed by the name of a cluster: 4242;cluster
split=$(sbatch --parsable --job-name=rlaif-split --mem=8G --output="$OUT/logs/split-%j.log" \
    --wrap 'rlaif shards split "$SAMPLES" --rows "$ROWS" --out "$OUT/samples"')
labels=$(sbatch --parsable --dependency=afterok:"${split%%;*}" --array="0-$((TASKS - 1))" \
    "${gpus[@]}" --output="$OUT/logs/label-%A_%a.log" "$(dirname "$0")/label-array.sbatch")
sbatch --dependency=afterany:"${labels%%;*}" --job-name=rlaif-status \
    --output="$OUT/logs/status-%j.log" --wrap 'rlaif shards status "$OUT/labels"'
