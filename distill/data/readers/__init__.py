"""How each task's rows are read and become tokens: a file a task, and the one dict that names them."""

from distill.data.readers.classification import ClassificationReader
from distill.data.readers.reader import Reader

READERS: dict[str, Reader] = {
    "text-classification": ClassificationReader(),
}

__all__ = ["READERS", "Reader"]
