"""One recipe in, measured engines out."""

__version__ = "0.1.0"
