"""Says which pod it is, over HTTP, until it is told to end."""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Pod, node, user, seccomp mode and a mounted value, one per line."""
        mode = next(
            line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "Seccomp:" in line
        )
        facts = [os.environ["POD"], os.environ["NODE"], str(os.getuid()), mode, Path("/config/value").read_text()]
        body = "\n".join(facts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Path("/scratch/started").write_text("yes")
ThreadingHTTPServer(("", 8080), _Answer).serve_forever()
