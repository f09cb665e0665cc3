"""`python -m tickerforge.training FOLDER`: do the job in a folder, as the process that `launch` starts."""

import sys
from pathlib import Path

from tickerforge.training.launch import work

work(Path(sys.argv[1]))
