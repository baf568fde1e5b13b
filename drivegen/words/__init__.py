"""Files of textual inversion: words that others learned, in every common layout, read and written."""

from drivegen.words.files import FILE, Embedding, find, read, save
from drivegen.words.teach import forget, known, teach

__all__ = ["FILE", "Embedding", "find", "forget", "known", "read", "save", "teach"]
