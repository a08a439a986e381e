"""The transactions of a scope: what a decision reads, and how it holds, acts and drops."""

from ..settle import CommitCallback as CommitCallback
from .act import OnAction as OnAction
from .drop import DecidedDrop as DecidedDrop
from .drop import HeldDeliveries as HeldDeliveries
from .held_events import Held as Held
from .held_events import refuse_unanswerable as refuse_unanswerable
from .hold import ScopeNotes as ScopeNotes
from .pins import DecisionPending as DecisionPending
from .pins import Pin as Pin
from .scopes import Scopes as Scopes
from .state import NO_NOTES as NO_NOTES
from .state import EarlierEventPending as EarlierEventPending
from .state import PendingDecision as PendingDecision
from .state import ScopeMoved as ScopeMoved
from .state import ScopeState as ScopeState
from .state import write_notes as write_notes
