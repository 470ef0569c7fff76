import sys
from pathlib import Path

# Scripts import each other by name, as they do when one of them is run.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
