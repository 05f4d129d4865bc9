# Sourced by the launch scripts: starts `$script` with this machine's or this allocation's ranks.
# NPROC_PER_NODE: ranks per node; default the node's GPUs, or 1 on a machine without any.
#
# TERM, USR1, Ctrl-C and a closed terminal ask the ranks to save and leave; the exit code is then 0. Under Slurm the job
# goes back into the queue after that, whatever ended it; not after it has finished, failed, or was cancelled.
set -u
export PYTHONUNBUFFERED=1
# One queue for kernels, so that Megatron's collectives start before the products that they overlap with.
export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
# Sizes change from row to row: segments that grow do not leave gaps. NCCL cannot register such memory for graphs.
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
export NCCL_GRAPH_REGISTER="${NCCL_GRAPH_REGISTER:-0}"
[ -x "$root/.venv/bin/python" ] && PATH="$root/.venv/bin:$PATH"
if ! python -c '' 2>/dev/null; then
    echo "error: python was not found: run 'make setup' in $root first" >&2
    exit 1
fi
if [ -z "${NPROC_PER_NODE:-}" ]; then
    NPROC_PER_NODE="${SLURM_GPUS_ON_NODE:-$( (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU')}"
    [ "$NPROC_PER_NODE" -gt 0 ] 2>/dev/null || NPROC_PER_NODE=1
fi
export NPROC_PER_NODE
[ "$NPROC_PER_NODE" -gt 1 ] && export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${EDITCAPTION_STEP:-}" ]; then
    # The batch script: one task per node runs this file again, as the shell part below.
    export EDITCAPTION_STEP=1 EDITCAPTION_ROOT="$root" EDITCAPTION_STOPPED_CODE=75
    # Slurm's address of the first node, which need not be a name that every machine resolves.
    first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    address="$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)"
    export MASTER_ADDR="${MASTER_ADDR:-${address:-$first}}"
    export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
    # --wait: a node whose ranks are gone ends the others within a minute; they are not left waiting for it. A task has
    # all cores and memory of its node: Slurm's own share is one core, and srun does not inherit what sbatch was given.
    srun --ntasks-per-node=1 --wait=60 --mem=0 --cpu-bind=none --cpus-per-task="${SLURM_CPUS_ON_NODE:-1}" \
        bash "$script" "$@" &
    step=$!
    # Slurm warns the batch script (--signal=B:USR1, a preemption's TERM): pass it on, so that ranks save.
    asked= interrupted=1
    trap 'asked=1 interrupted=1; scancel --signal=USR1 "$SLURM_JOB_ID.0"' USR1 TERM
    while [ -n "$interrupted" ]; do interrupted=; wait "$step"; code=$?; done
    # 75: saved, with steps to go. 0: finished. 2: settings that no second start would mend.
    if [ "$code" -eq 75 ] || { [ -n "$asked" ] && [ "$code" -ne 0 ] && [ "$code" -ne 2 ]; }; then
        state="$(scontrol show job "$SLURM_JOB_ID" | grep -o 'JobState=[A-Z_]*')"
        if [ "$state" = JobState=RUNNING ]; then
            echo "requeued: the next start goes on from the newest checkpoint" >&2
            scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until Slurm ends this script: an exit would end the job
        fi
    fi
    exit "$code"
fi
# Until the ranks remember signals, this one must not end them.
trap '' USR1
if [ -n "${EDITCAPTION_STEP:-}" ] && [ "${SLURM_NNODES:-1}" -gt 1 ]; then
    exec python -m editcaption_mega.launcher --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \
        --nproc-per-node "$NPROC_PER_NODE" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "$script" "$@"
fi
if [ "$NPROC_PER_NODE" -eq 1 ]; then
    exec python "$script" "$@"
fi
exec python -m editcaption_mega.launcher --standalone --nproc-per-node "$NPROC_PER_NODE" "$script" "$@"
