"""The command `palaver-server check`: it tries what a server with these settings would need."""
