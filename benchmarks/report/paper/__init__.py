"""Every table and figure of the paper: published numbers, what was measured here, and the difference.

Pure functions of files, as the rest of the report: published numbers from `results/published`, ours from
the stores of the suites named after the artifacts (`results/table2` ...) and of their twins on rooms.
"""

from .writing import write_paper as write_paper
