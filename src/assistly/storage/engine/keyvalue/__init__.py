"""A base class for engines on key-value stores: the author implements an ordered map with transactions."""

from .backend import KeyValueBackend, KeyValueTransaction
from .buffer import BufferedMap, SortedKeys
from .ordered import OrderedMap, OrderedStore, ReadableMap, Value

__all__ = [
    "BufferedMap",
    "KeyValueBackend",
    "KeyValueTransaction",
    "OrderedMap",
    "OrderedStore",
    "ReadableMap",
    "SortedKeys",
    "Value",
]
