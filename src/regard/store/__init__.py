"""Stores of runs: run folders under one address, listed quickly, claimed by one process at a time, sent and fetched.

An address is a folder, or any address of fsspec, such as `s3://bucket/runs`; many machines may use one at a time. Run
folders are the only store of results, and everything else that a store keeps can be made anew from them.
"""

from regard.store.claims import Claim
from regard.store.store import Store
from regard.store.stored import StoredRun

__all__ = ["Claim", "Store", "StoredRun"]
