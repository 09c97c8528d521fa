"""W&B: one run for each pipeline run, told by a process of its own, so that W&B can neither stop nor slow a run.

    pipeline ─► Tracker ─► RUN/wandb/spool/1.jsonl ─► worker (a child process) ─► wandb ─► RUN/wandb/offline-run-…

The process that trains never imports wandb: it adds lines to a file. The worker follows the file, and is given a few
seconds in the end. Whatever is sent is first freed of local paths, and W&B's own capture of code, console, arguments,
host and environment is off.

**Offline runs.** All that a run needs lies below RUN/wandb, under relative names: copy RUN/wandb to wherever there is a
network and type `WANDB_PROGRAM=distill wandb sync` in the folder above it. (`wandb sync` sends the path of its own
program; WANDB_PROGRAM puts a word in its place.)

**Runs that were cut off and go on** keep their id. Online the same W&B run is resumed. Offline each sitting leaves a
folder of its own with the same id; wandb 0.31 uploads folders of one id one after the other, the oldest first, and adds
the later history behind the earlier. Steps are counted on over all sittings, and a later sitting repeats the earlier
ones' last values for the summary, so that the W&B run comes out as if it had never been cut.
"""

from distill.tracking.tracker import Tracker, start

__all__ = ["Tracker", "start"]
