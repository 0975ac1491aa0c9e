"""What agent programs print, in one small vocabulary: begun, asked, said, used a tool, spent, concluded, or a line.

Pure: bytes of a log in, events out. A dialect per program maps one JSON object of its event stream; whatever is not
understood is kept as a `Line` and never an error, for the programs change faster than we do. Bounded: a line of more
than 1 MiB is no event.
"""

from common.agent_output.account import Account, Conclusion, Usage, account_for
from common.agent_output.events import Asked, Began, Concluded, Event, Line, Returned, Said, Spent, Used
from common.agent_output.lines import DIALECTS, Lines, parse_line, recognise
from common.agent_output.rendering import Rendering, render

__all__ = [
    "DIALECTS",
    "Account",
    "Asked",
    "Began",
    "Concluded",
    "Conclusion",
    "Event",
    "Line",
    "Lines",
    "Rendering",
    "Returned",
    "Said",
    "Spent",
    "Usage",
    "Used",
    "account_for",
    "parse_line",
    "recognise",
    "render",
]
