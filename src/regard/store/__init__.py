"""Stores of runs: list, lock, upload and download run folders under one address.

The address is a folder, or an address of fsspec such as `s3://bucket/runs`; several machines may use it at once. All
results are in the run folders.
"""

from regard.store.locks import Lock
from regard.store.runs import StoredRun, read_run
from regard.store.store import MissingRun, Store, is_address, local_run, split_address

__all__ = ["Lock", "MissingRun", "Store", "StoredRun", "is_address", "local_run", "read_run", "split_address"]
