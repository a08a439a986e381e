"""The rendered service, and a socket that counts its tasks: `python service.py FILE serve ...`.

It is the command line as it is; a thread answers whoever connects to the socket FILE.
"""

import asyncio
import gc
import json
import socket
import sys
import threading
from collections import Counter
from typing import Any, cast

from my_agent.cli import main


def count_tasks() -> dict[str, int]:
    """Count the tasks that are not done, by the names of their coroutines."""
    gc.collect()
    tasks = [
        cast("asyncio.Task[Any]", each) for each in gc.get_objects() if type(each) is asyncio.Task
    ]
    return Counter(str(task.get_coro()).split(" ")[2] for task in tasks if not task.done())


def answer(listener: socket.socket) -> None:
    """Answer each connection with the count."""
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(count_tasks()).encode())


if __name__ == "__main__":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv.pop(1))
    listener.listen()
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    main()
