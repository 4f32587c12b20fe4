"""The loop and what it needs: plan, feed, optimizer and schedules, checkpoints of a run."""
