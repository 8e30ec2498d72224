"""Tensors between processes: bytes in shared memory, truth in one process, order by the kernel.

The only package that imports mmap. The front end owns the allocator and every lease; workers hold views.
"""
