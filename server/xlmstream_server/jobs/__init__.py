"""The gateway's part of jobs: what is made, uploaded, watched and read is checked here; the broker keeps it."""
