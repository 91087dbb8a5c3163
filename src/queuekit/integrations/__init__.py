"""Hooks for other people's systems, each in a module of its own that alone imports what it is for."""
