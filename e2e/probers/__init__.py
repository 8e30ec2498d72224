"""Load that keeps every answer: requests at a fixed rate over keep-alive connections, none ever sent twice.

`http1` is the client, `load` sends, `events` tells whole streams from broken ones, `ledger` keeps and judges, `probe`
is the handle that tests hold. Sending runs in a process of its own (`python -m e2e.probers`), so that a busy test never
delays a request. Standard library only, with relative imports: the same files run in a pod of any Python image.
"""
