# Sourced by the launch scripts: starts torchrun on `$script` with this machine's or this allocation's ranks.
# NPROC_PER_NODE: ranks per node; default the node's GPUs, or 1 on a machine without any.
set -u
export PYTHONUNBUFFERED=1
[ -x "$root/.venv/bin/torchrun" ] && PATH="$root/.venv/bin:$PATH"
if ! command -v torchrun >/dev/null; then
    echo "error: torchrun was not found: run 'make setup' in $root first" >&2
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
    export EDITCAPTION_STEP=1 EDITCAPTION_ROOT="$root"
    # Slurm's address of the first node, which need not be a name that every machine resolves.
    first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    address="$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)"
    export MASTER_ADDR="${MASTER_ADDR:-${address:-$first}}"
    export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
    srun --ntasks-per-node=1 bash "$script" "$@" &
    step=$!
    # Slurm warns the batch script (--signal=B:USR1): pass it on, so that ranks save before the time limit.
    # Then the job goes back into the queue and resumes from that checkpoint.
    again=
    trap 'again=1; scancel --signal=USR1 "$SLURM_JOB_ID.0"' USR1
    trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM
    wait "$step"; code=$?
    while [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done
    if [ -n "$again" ] && [ "$code" -eq 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$code"
fi
# Ranks handle this signal; torchrun does not and would die of it, with the ranks in the middle of a save.
trap '' USR1
if [ -n "${EDITCAPTION_STEP:-}" ] && [ "${SLURM_NNODES:-1}" -gt 1 ]; then
    exec torchrun --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --nproc-per-node "$NPROC_PER_NODE" \
        --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "$script" "$@"
fi
if [ "$NPROC_PER_NODE" -eq 1 ]; then
    exec python "$script" "$@"
fi
exec torchrun --standalone --nproc-per-node "$NPROC_PER_NODE" "$script" "$@"
