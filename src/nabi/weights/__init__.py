"""Weights: the name-table language (names), the files that tensors lie in (files), what a model's name stands for (sources), and the hub (hub, download)."""

from nabi.weights.files import TensorFiles, atomic_folder, file_sha256, place, read_tensors, recover, write_tensors
from nabi.weights.names import Entry, Loaded, NameTable, flipped, fused, same, stacked, tied, weight_normed
from nabi.weights.sharding import dealt, shard_name

__all__ = [
    "Entry",
    "Loaded",
    "NameTable",
    "TensorFiles",
    "atomic_folder",
    "dealt",
    "file_sha256",
    "flipped",
    "fused",
    "place",
    "read_tensors",
    "recover",
    "same",
    "shard_name",
    "stacked",
    "tied",
    "weight_normed",
    "write_tensors",
]
