# Sourced by the launch scripts: starts `$script` with this machine's or this allocation's ranks, as
# editcaption_mega/launching decides. What can be set in the environment is in docs/launching.md.
set -u
trap '' USR1  # until ranks remember signals, this one must not end them
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# A container has an environment of its own; and the machine of a batch script needs no more than some Python then.
[ -x "$root/.venv/bin/python" ] && [ -z "${EDITCAPTION_CONTAINER:-}" ] && PATH="$root/.venv/bin:$PATH"
for python in python python3; do "$python" -c '' 2>/dev/null && break; done
if ! "$python" -c '' 2>/dev/null; then
    echo "error: python was not found: run 'make setup' in $root first" >&2
    exit 1
fi
exec "$python" -m editcaption_mega.launching.start "$script" "$@"
