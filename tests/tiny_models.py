"""The tiny random networks of `drivegen.testing`, under the name that the tests use."""

from drivegen.testing.models import WIDTH, randomize, tiny_backbone, tiny_tokenizer

__all__ = ["WIDTH", "randomize", "tiny_backbone", "tiny_tokenizer"]
