"""Warns about deprecated names."""

import warnings


def warn_deprecated(old: str, new: str) -> None:
    """Warn at the caller's caller that `old` is deprecated and `new` replaces it."""
    message = f"Reflex: {old} is deprecated and goes with 0.4.0: use {new}."
    warnings.warn(message, DeprecationWarning, stacklevel=3)
