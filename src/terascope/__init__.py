"""Terascope: very large models as a shared scientific instrument.

Importing this package loads neither torch nor a web framework.
"""

from terascope._version import __version__

__all__ = ["__version__"]
