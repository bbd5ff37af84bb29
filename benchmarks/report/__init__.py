"""Tables, figures and pages: pure functions of a store folder.

Nothing here imports torch, loads a model or asks the time; a second run writes the same bytes.
"""

from .opened import open_store as open_store
from .readme import fill_front_page as fill_front_page
from .readme import write_results_readme as write_results_readme
from .terminal import terminal_table as terminal_table
from .writing import write_report as write_report
