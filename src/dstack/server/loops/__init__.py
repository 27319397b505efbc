"""Every replica runs every loop. A loop wakes on a notification or a tick, so a lost one costs delay, never a job."""
