"""Language models that spend depth where a token needs it: the exit grid."""

__version__ = '0.1.0'
