"""NRRD files, field by field."""

from pathlib import Path

import numpy as np

ARRAY = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6) - 50
PLAIN = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "6 5 4",
    "space directions": "(0,4,0) (-5,0,0) (0,0,6)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(1,-2,3.5)",
}


def write(folder: Path, *extra: str, data: bytes | None = None, **changes: str | None) -> Path:
    """A good file with some lines changed, left out (None) or added; names with _ for a blank."""
    changes = {name.replace("_", " "): value for name, value in changes.items()}
    fields = {name: value for name, value in (PLAIN | changes).items() if value is not None}
    lines = ["NRRD0004", *(f"{name}: {value}" for name, value in fields.items()), *extra, "", ""]
    data = ARRAY.tobytes() if data is None else data
    path = folder / "p.nrrd"
    path.write_bytes("\n".join(lines).encode("latin-1") + (data if "data file" not in fields else b""))
    return path
