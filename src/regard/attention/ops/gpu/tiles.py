"""The sides of the tiles that programs work on, from the shape, dtype and memory format of the features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import gcd

TILE = 4096  # elements of a tile: 16 a thread of 8 warps
WHOLE = 16384  # elements that one program keeps in registers
LINE = 128  # bytes
NARROW = 2**31 - 1  # elements of an image that offsets of 32 bits can reach


@dataclass(frozen=True)
class Tile:
    """Channels x places, powers of two."""

    channels: int
    places: int
    each: int = 16  # elements a thread

    @property
    def warps(self) -> int:
        """Of 32 threads."""
        return min(32, max(1, self.channels * self.places // (32 * self.each)))

    def programs(self, n: int, c: int, p: int = 1) -> int:
        """How many tiles cover n images of c channels and p places; p = 1 if a program takes all places in turn."""
        return n * -(-c // self.channels) * -(-p // self.places)


def power(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << max(0, least - 1).bit_length()


def common(stride: int) -> int:
    """The largest power of two up to 16 that divides a stride: loads and stores can be that many elements wide."""
    return gcd(stride, 16)


@cache
def tile(c: int, p: int, size: int, last: bool, elements: int = TILE, line: int = LINE) -> Tile:
    """For passes that scale, combine, or sum over places. `size`: bytes of an element; `line`: bytes of channels."""
    if last:
        channels = min(power(c), line // size)
        places = min(power(p), elements // channels)
        return Tile(min(power(c), elements // places), places)
    places = min(power(p), elements)
    return Tile(min(power(c), elements // places), places)


@cache
def map_tile(c: int, p: int, size: int, last: bool) -> Tile:
    """For passes in which all channels meet the same maps, of up to 20 bytes a place: they are read once a tile."""
    if last:
        return tile(c, p, size, last)
    places = min(power(p), TILE // 16)
    return Tile(min(power(c), TILE // places), places)


@cache
def whole_tile(c: int, p: int, size: int, last: bool) -> tuple[Tile, bool]:
    """For the plane gate; and whether the tile has all places of its channels.

    If not, channels last are taken by half a line, so that what runs at a time stays in the cache for a second read.
    Planes of an odd size are loaded element by element, for which addresses take more registers than values: their
    tiles are small, so that registers suffice for several.
    """
    least = min(power(c), LINE // 2 // size) if last else 1
    if least * power(p) <= WHOLE:
        narrow = not last and common(p) < 8
        elements = TILE if last or common(p) > 1 else TILE // 4
        return Tile(max(least, min(power(c), elements // power(p))), power(p), 8 if narrow else 16), True
    return tile(c, p, size, last, 2 * TILE, LINE // 2), False


@cache
def column_tile(c: int, p: int, size: int, last: bool) -> Tile:
    """For sums over channels. There are few programs, one for some places of an image, so tiles are larger."""
    elements = 2 * TILE
    if last:
        channels = min(power(c), 2 * LINE)
        return Tile(channels, min(power(p), elements // channels))
    places = min(power(p), max(128 if p >= 1024 else 64, elements // power(c)))
    return Tile(min(power(c), elements // places), places)


@cache
def box(c: int, h: int, w: int, size: int, last: bool) -> tuple[Tile, int]:
    """For passes over rows and columns: channels x columns, all of them, and how many rows."""
    columns = power(w)
    channels = min(power(c), LINE // size, max(1, TILE // columns)) if last else 1
    rows = min(power(h), max(1, TILE // (columns * channels)))
    return Tile(min(power(c), max(channels, TILE // (columns * rows))), columns), rows


def box_warps(sides: Tile, rows: int) -> int:
    """The warps of such a box."""
    return Tile(sides.channels, sides.places * rows).warps


@cache
def group_tile(channels: int, p: int) -> tuple[Tile, bool]:
    """For a group of channels; and whether the tile is all of it."""
    if power(channels) * power(p) <= WHOLE:
        return Tile(power(channels), power(p)), True
    places = min(power(p), 256)
    return Tile(min(power(channels), TILE // places), places), False
