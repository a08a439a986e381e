"""Reads what the console shows: scopes and their lives, decisions, searches of the log, workers. It changes nothing.

Each read is bounded in rows, bytes and time, and those that scan return how far they looked.
"""

from .decision import DecisionView as DecisionView
from .inspection import Inspection as Inspection
from .life import Entry as Entry
from .life import ScopeLife as ScopeLife
from .scope_list import ScopePage as ScopePage
from .scope_list import ScopeRow as ScopeRow
from .scope_state import ScopeState as ScopeState
from .scope_state import UnfinishedDecision as UnfinishedDecision
from .search import EventSearch as EventSearch
from .search import FoundPage as FoundPage
from .units import Part as Part
from .units import Unit as Unit
from .workers import SubscriptionView as SubscriptionView
from .workers import Worker as Worker
