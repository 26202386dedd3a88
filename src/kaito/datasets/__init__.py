"""Training data: fetch it, read it, render it to tokens with a loss mask, check every row. Nothing is trained here."""

from kaito.datasets.files import files_digest

__all__ = ["files_digest"]
