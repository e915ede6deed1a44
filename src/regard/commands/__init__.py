"""The commands, one a file: thin shells over functions that work without them.

Each has `main(arguments)`, which returns the exit status.
"""
