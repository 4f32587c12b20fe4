"""Lets the probes import what they share, ``blocks.py``, under every import mode and in processes that they start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
