"""Deprecated alias of `infra.model.offline`."""

from .deprecated import warn_deprecated
from .model.offline import OfflineModel as OfflineModel

warn_deprecated("infra.offline", "infra.model.offline")
