"""The version, apart from `__init__` so that the build reads it without importing the package."""

__version__ = "0.1.0"
