"""Files of textual inversion: words that others learned, in every common layout, read and written."""

from drivegen.words.files import FILE, Embedding, find, read, save
from drivegen.words.teach import teach

__all__ = ["FILE", "Embedding", "find", "read", "save", "teach"]
