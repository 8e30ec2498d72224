"""`python -m e2e.probers LOAD`: send LOAD (JSON), write the ledger to stdout, stop when stdin ends."""

from __future__ import annotations

import asyncio
import json
import sys

from .ledger import Entry, Summary
from .load import Load, Sender


def _write(line: Entry | Summary) -> None:
    sys.stdout.write(line.line() + "\n")
    sys.stdout.flush()


async def _run(load: Load) -> None:
    sender = Sender(load, _write)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sending = asyncio.create_task(sender.run())
    ended = asyncio.create_task(reader.read())
    await asyncio.wait({sending, ended}, return_when=asyncio.FIRST_COMPLETED)
    sender.stop()
    _write(await sending)
    ended.cancel()
    transport.close()


if __name__ == "__main__":
    asyncio.run(_run(Load(**json.loads(sys.argv[1]))))
