"""The callers of the server: the file that names them, and the keys, tokens and certificates that identify them."""
