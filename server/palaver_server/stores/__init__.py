"""Stores of conversations: implementations of `domain.ports.Store`, one package for each kind."""
