"""Where conversations are kept: one interface, and a module for each kind of store."""
