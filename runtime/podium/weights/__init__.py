"""What weights take of memory, told from their files: asked before a load, and by engines that divide up what is left.

A leaf: no library of models is imported, and nothing is read but the heads of files.
"""
