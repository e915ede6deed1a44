"""DataLoader workers, which read ahead of the main process."""

from __future__ import annotations

import signal
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset

from regard.errors import InputError, first_line


class Failure(NamedTuple):
    """The one-line message of an InputError in a worker, and its traceback.

    It is returned, because the DataLoader would add the traceback to the message of a raised exception.
    """

    message: str
    traceback: str


class Workers:
    """DataLoader workers, whose items come in the order of the requests for any number of workers.

    The source is map-style, read as `source[request]`, or an `IterableDataset`, which every worker iterates. It is sent
    to the workers once, when they start. With the count 0, items are read in the main process. `persistent` keeps the
    workers for the next iteration.
    """

    def __init__(self, source: Any, count: int, *, pin_memory: bool = False, persistent: bool = False) -> None:
        self._source = source
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None
        self._finalizer: weakref.finalize[Any, Any] | None = None  # ends the current workers
        self._iteration = 0
        if not count:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of more workers than CPU cores
            self._loader = DataLoader(
                source,
                batch_size=None,
                sampler=None if isinstance(source, IterableDataset) else self._requests,
                num_workers=count,
                collate_fn=_identity,
                worker_init_fn=_init_worker,
                pin_memory=pin_memory,
                persistent_workers=persistent,
                generator=torch.Generator(),  # so that the global generator does not change
            )

    def read(self, requests: Iterable[Any] = ()) -> Iterator[Any]:
        """Yields the items of the requests, or of the iterable source.

        Raises InputError for a `Failure`, whose traceback becomes a note of the error, if a worker died, or if two
        iterations run at once.
        """
        for item in self._items(requests):
            if isinstance(item, Failure):
                error = InputError(item.message)
                error.add_note(item.traceback)
                raise error
            yield item

    def _items(self, requests: Iterable[Any]) -> Iterator[Any]:
        if self._loader is None:
            if isinstance(self._source, IterableDataset):
                yield from self._source
            else:
                yield from (self._source[request] for request in requests)
            return
        self._requests.current = requests
        self._iteration += 1
        iteration = self._iteration
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as above
                iterator = iter(self._loader)
            if iterator is not self._iterator:
                # The iterator owns the queues that stop the workers. Without this reference, garbage collection of a
                # reference cycle could delete the queues first, and Python's exit would wait for the workers forever.
                self._iterator, self._finalizer = iterator, weakref.finalize(self, _shut_down, iterator)
            while iteration == self._iteration:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                yield item
            raise InputError("two epochs of one loader are read at once; read one after the other, or use two loaders")
        except (RuntimeError, EOFError, ConnectionError) as error:
            # EOFError, ConnectionError: the worker died while a tensor in shared memory was in transit.
            if str(error).startswith("Caught "):
                raise  # an error of the source, not of the worker
            raise InputError(
                f"a DataLoader worker died ({first_line(error)}); if memory ran out, use fewer workers (--workers, or "
                "--data.workers of a recipe) or smaller batches (--batch-size)"
            ) from error
        finally:
            if iteration == self._iteration and not self._loader.persistent_workers:
                self.close()

    def close(self) -> None:
        """Ends the workers; the next iteration starts new ones."""
        if self._finalizer is not None and self._loader is not None:
            self._loader._iterator = self._iterator = None
            self._finalizer()


def _shut_down(iterator: Any) -> None:
    iterator._shutdown_workers()


class _Requests:
    """The current requests. A separate object, because a reference to `Workers` would keep the workers alive."""

    def __init__(self) -> None:
        self.current: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.current)


def _identity(batch: Any) -> Any:
    return batch


def _init_worker(_: int) -> None:
    # Ctrl-C, and often a scheduler's termination signal, reach all processes; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    torch.set_num_threads(1)


def _ignore_once(number: int, _: Any) -> None:
    # A later signal comes from the main process, to end a worker that does not stop by itself.
    signal.signal(number, signal.SIG_DFL)
