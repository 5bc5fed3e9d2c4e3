"""What a run says while it waits: for data, and for a hub that cannot be reached."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.parse import urlsplit

PATIENCE = 2.0
"""Seconds after which a wait is explained."""
REACH = 3.0
"""Seconds within which a hub must answer."""
_OFFLINE = "HF_HUB_OFFLINE"


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Say on standard error what is being done, if it takes more than :data:`PATIENCE`.

    Args:
        doing: What, such as ``reading the data of glue``.
    """
    timer = Timer(PATIENCE, lambda: print(f"{doing} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def go_offline_without_hub(*sources: str) -> None:
    """Let what is named on the Hugging Face hub be read from what was downloaded before, if the hub cannot be reached.

    Otherwise its libraries try for minutes. Nothing is done where each source is a folder, or a proxy is set.

    Args:
        *sources: Names on the hub, or folders.
    """
    named = [source for source in sources if source and "/" in source and not Path(source).exists()]
    if not named or os.environ.get(_OFFLINE) or urllib.request.getproxies():
        return
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), REACH).close()
    except OSError as error:
        os.environ[_OFFLINE] = "1"
        print(
            f"{address.hostname} cannot be reached ({error}): {' and '.join(named)} can only be read where it was "
            "downloaded before; give a folder with --data (and --model) otherwise",
            file=sys.stderr,
        )
