#!/bin/sh
# The state of a Slurm job as Snakemake wants it: running, success or failed.
# A controller or database that does not answer says nothing about the job: it counts as running.
state=$(squeue --noheader --states=all --format=%T --jobs="$1" 2>/dev/null | head -n 1)
if [ -z "$state" ]; then
    # The controller forgets a job some minutes after its end; the accounting database does not.
    state=$(sacct --noheader --parsable2 --allocations --format=State --jobs="$1" 2>/dev/null | head -n 1)
fi
case "$state" in
COMPLETED*) echo success ;;
BOOT_FAIL* | CANCELLED* | DEADLINE* | FAILED* | OUT_OF_MEMORY* | TIMEOUT*) echo failed ;;
# Preempted jobs and those of a dead node are queued again.
*) echo running ;;
esac
