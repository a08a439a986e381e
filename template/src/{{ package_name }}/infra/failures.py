"""Deprecated alias of `infra.memory.failures`."""

from .deprecated import warn_deprecated
from .memory.failures import BUSY_DELAY as BUSY_DELAY
from .memory.failures import Settling as Settling
from .memory.failures import handling as handling

warn_deprecated("infra.failures", "infra.memory.failures")
