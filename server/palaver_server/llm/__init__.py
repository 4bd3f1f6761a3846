"""Endpoints that generate replies: implementations of `domain.ports.ChatModel`."""
