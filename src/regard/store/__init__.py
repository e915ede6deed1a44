"""Stores of runs: run folders under one address, listed, locked by one process at a time, uploaded and fetched.

An address is a folder, or any address of fsspec, such as `s3://bucket/runs`; many machines may use one at a time. Run
folders are the only store of results: nothing else that a store keeps is needed to read them.
"""

from regard.store.locks import Lock
from regard.store.runs import StoredRun, read_run
from regard.store.store import MissingRun, Store, is_address, local_run, split_address

__all__ = ["Lock", "MissingRun", "Store", "StoredRun", "is_address", "local_run", "read_run", "split_address"]
