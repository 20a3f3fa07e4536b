"""The public functions, one file each: what the command line calls."""
