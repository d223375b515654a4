"""The version, where nobody needs to import anything to read it."""

__version__ = '0.1.0'
