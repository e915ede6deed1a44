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

    A raised exception would arrive in the main process with the traceback in its message.
    """

    message: str
    traceback: str


class Workers:
    """DataLoader workers. Items come in the order of the requests, for any number of workers.

    Args:
        source: a map-style source, read as `source[request]`, or an `IterableDataset`, which is iterated in each worker
            in turn. It is sent to the workers once, when they start. A `Failure` among the items is raised.
        count: number of workers; 0 reads in the main process.
        pinned: put tensors into page-locked memory, for asynchronous copies to a GPU.
        lasting: keep the workers for the next iteration.
    """

    def __init__(self, source: Any, count: int, *, pinned: bool = False, lasting: bool = False) -> None:
        self._source = source
        self._requests = _Requests()
        self._loader: DataLoader[Any] | None = None
        self._running: Any = None
        self._ending: weakref.finalize[Any, Any] | None = None  # ends the current workers
        self._turn = 0
        if not count:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more workers than CPU cores, which is the user's choice
            self._loader = DataLoader(
                source,
                batch_size=None,
                sampler=None if isinstance(source, IterableDataset) else self._requests,  # any iterable will do
                num_workers=count,
                collate_fn=_as_it_is,
                worker_init_fn=_begin,
                pin_memory=pinned,
                persistent_workers=lasting,
                generator=torch.Generator(),  # a separate generator, so that other random numbers do not change
            )

    def read(self, requests: Iterable[Any] = ()) -> Iterator[Any]:
        """The items of the requests, or of the iterable source.

        Raises:
            InputError: an item is a `Failure`, whose traceback becomes a note of the error; a worker died; or two
                epochs are read at once.
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
        self._requests.now = requests
        self._turn += 1
        turn = self._turn
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as above
                iterator = iter(self._loader)
            if iterator is not self._running:
                # The iterator owns the queues that stop the workers. Without this reference, garbage collection of a
                # reference cycle could delete the queues first, and Python's exit would wait for the workers forever.
                self._running, self._ending = iterator, weakref.finalize(self, _end, iterator)
            while turn == self._turn:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                yield item
            raise InputError("two epochs of one loader are read at once; read one after the other, or make two loaders")
        except (RuntimeError, EOFError, ConnectionError) as error:
            # The last two: the worker died while a tensor in shared memory was in transit.
            if str(error).startswith("Caught "):
                raise  # an error of the source, not of the worker
            raise InputError(
                f"a DataLoader worker died ({first_line(error)}); if memory ran out, try fewer of them (--workers, or "
                "--data.workers of a recipe) or smaller batches (--batch-size)"
            ) from error
        finally:
            if turn == self._turn and not self._loader.persistent_workers:
                self.close()

    def close(self) -> None:
        """Ends the workers; the next iteration starts new ones."""
        if self._ending is not None and self._loader is not None:
            self._loader._iterator = self._running = None
            self._ending()


def _end(running: Any) -> None:
    running._shutdown_workers()


class _Requests:
    """The current requests. A separate object, because a reference to `Workers` would keep the workers alive."""

    def __init__(self) -> None:
        self.now: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)


def _as_it_is(part: Any) -> Any:
    return part


def _begin(_: int) -> None:
    # Ctrl-C, and often a scheduler's termination signal, reach all processes; the main process ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _pass_over_once)
    torch.set_num_threads(1)


def _pass_over_once(number: int, _: Any) -> None:
    # A later signal comes from the main process, to end a worker that does not stop by itself.
    signal.signal(number, signal.SIG_DFL)
