"""Counts the parameters of the paper's models: python -m benchmarks.report.paper results/paper/counts.json"""

import sys
from pathlib import Path

from .counts import write_counts

print(write_counts(Path(sys.argv[1])))
