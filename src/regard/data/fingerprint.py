"""Whether a set still holds the same images."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from regard.data.dataset import ImageDataset
from regard.data.decode import Unreadable
from regard.data.fileset import FileSet
from regard.data.wds import WebDataset

_MOST = 8192  # files that are read
_BYTES = 2**28  # of all of them together


def fingerprint(images: ImageDataset | WebDataset | FileSet) -> str:
    """A digest of what a set holds: the same wherever its files are, whenever they were written, and in every process.

    Of a set that is read while training, it is of all labels, and of name, size and first bytes of up to 8,192 images,
    evenly spread; 256 MiB are read at most, so that of small sets every byte counts.

    Returns:
        64 hexadecimal digits.
    """
    if not isinstance(images, FileSet):
        return images.fingerprint()
    digest = hashlib.sha256()
    source = images.source
    digest.update(f"{len(source)}\n".encode())
    digest.update(source.labels.tobytes())
    count = len(source)
    chosen = range(count) if count <= _MOST else [i * count // _MOST for i in range(_MOST)]
    for i in chosen:
        name = source.name(i)
        relative = os.path.basename(name) if os.path.isabs(name) else name
        digest.update(f"{relative}\n".encode(errors="surrogateescape"))
        with suppress(OSError, Unreadable), source.open(i) as file:
            digest.update(f"{file.seek(0, os.SEEK_END)}\n".encode())
            file.seek(0)
            digest.update(file.read(_BYTES // len(chosen)))
    return digest.hexdigest()
