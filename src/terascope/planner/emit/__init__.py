"""Launch files of a plan."""

from terascope.planner.emit.apart import emit_split
from terascope.planner.emit.files import emit_files

__all__ = ["emit_files", "emit_split"]
