"""Copy what `bitbench tune` kept in the cache folder into the package's own table, bitbench/decode/data/tuning.json.

    bitbench tune MODEL -m METHOD --batch-size N
    python scripts/ship_tuning.py [FILE]

FILE is a cache file of another machine. What the table has of other GPUs, and of other products, stays.
"""

import sys
from pathlib import Path

from bitbench.decode.tuning import SHIPPED, file, keep, read


def main(source: Path) -> None:
    """Each GPU of the file."""
    for name, table in read(source).items():
        keep(name, table, SHIPPED)
        print(f"{name}: {', '.join(sorted(table.measured))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else file())
