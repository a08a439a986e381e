"""Working memories: the context of each scope, and how failed decisions are settled."""

from .failures import BUSY_DELAY as BUSY_DELAY
from .memory import Memory as Memory
from .memory import OnAction as OnAction
