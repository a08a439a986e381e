"""Units that the whole service uses, below every other module."""

type Seconds = float
"""A duration in seconds."""

type Scope = str
"""Whose memory an event belongs to: `main`, `ws:<client>`, or what a type of event names."""

type Schedule = Seconds | str
"""When a timer ticks: at an interval, or by a cron expression, in UTC."""
