# shellcheck shell=bash
# Sourced by the job scripts: `run COMMAND` runs a command as a step of this
# job and, if the job's time is nearly over, stops it and requeues the job.
cd "$SLURM_SUBMIT_DIR" || exit

# One process for each GPU of a node, which share the node's cores.
processes=${SLURM_GPUS_ON_NODE:-1}
threads=$((${SLURM_CPUS_PER_TASK:-1} / processes))
export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # Slurm no longer does
# Seconds that torchrun leaves its processes to write a checkpoint (30).
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90
export TQDM_MININTERVAL=60 TQDM_MAXINTERVAL=60 # seconds: this is a log

# Slurm sends USR1 to this shell alone (--signal=B:USR1@120). The step gets
# its SIGTERM from scancel: srun would turn one of its own into a SIGKILL.
stopped=
stop() {
  stopped=yes
  echo "time is nearly over: stopping"
  scancel --signal=TERM "$SLURM_JOB_ID"
}

run() {
  trap stop USR1
  # The node that writes the checkpoint may be the last to leave.
  srun --kill-on-bad-exit=0 --wait=0 "$@" &
  wait $!
  local status=$?
  if [ -n "$stopped" ]; then # the signal ended the first wait
    wait $!
    status=$?
  fi
  if [ -n "$stopped" ] && [ $status -ne 0 ]; then
    echo "not finished: the job goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return $status
}
