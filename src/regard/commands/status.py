"""What commands exit with, besides 0 for done and 2 for wrong input."""

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped when asked to, and can be resumed
