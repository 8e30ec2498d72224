"""The live page: what is loaded, drawn as a graph with the rates that go through it, for a person with a browser."""
