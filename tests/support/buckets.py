"""A bucket in memory that records its operations and can fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class TestBucket(MemoryFileSystem):
    """`testbucket://…`: fsspec's memory file system, with one writer at a time.

    Attributes:
        traffic: operations so far ("put run/recipe.yaml", "get …", "write …", "remove …"), but for hidden files.
        failing: the operations that fail: those in `traffic`, or "list".
    """

    __test__ = False
    protocol = "testbucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    traffic: ClassVar[list[str]] = []
    failing: ClassVar[set[str]] = set()
    mutex = threading.RLock()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("testbucket://"))

    def _check(self, operation: str) -> None:
        if operation in self.failing:
            raise OSError("the network is away\n(try later)")

    def _record(self, operation: str, path: str) -> None:
        self._check(operation)
        if "/." not in path:
            self.traffic.append(f"{operation} {path.removeprefix('/runs/')}")

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        self._check("list")
        return super().find(path, *args, **options)

    def info(self, path: str, **options: Any) -> Any:
        self._check("list")
        return super().info(path, **options)

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        self._record("read", path)
        return super().cat_file(path, *args, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        with self.mutex:
            self._record("write", path)
            super().pipe_file(path, value, mode=mode, **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._record("put", rpath)
        super().put_file(lpath, rpath, **options)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        self._record("get", rpath)
        super().get_file(rpath, lpath, **options)

    def rm_file(self, path: str) -> None:
        self._record("remove", path)
        super().rm_file(path)


fsspec.register_implementation("testbucket", TestBucket, clobber=True)


@contextmanager
def bucket() -> Iterator[str]:
    """The address of an empty bucket."""

    def clear() -> None:
        TestBucket.store.clear()
        TestBucket.pseudo_dirs[:] = [""]
        TestBucket.traffic.clear()
        TestBucket.failing.clear()

    clear()
    yield "testbucket://runs"
    clear()
