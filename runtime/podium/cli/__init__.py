"""The command line: a module per command, the top of the runtime's layers."""
