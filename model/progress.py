"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import shutil
from typing import Any, TextIO


class Progress:
    """Told (done, total) windows by `vote`; used as a context manager so that the bar is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._tenth = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self._stream.isatty():
            if self._bar is None:
                from tqdm import tqdm

                columns, lines = shutil.get_terminal_size()  # 80 x 24 where the terminal does not say
                self._bar = tqdm(
                    total=total, unit="window", file=self._stream, leave=False, ncols=columns, nrows=lines
                )  # fmt: skip
            self._bar.update(done - self._bar.n)
        elif done * 10 // total > self._tenth or done == total:
            self._tenth = done * 10 // total
            print(f"window {done} of {total}", file=self._stream, flush=True)
