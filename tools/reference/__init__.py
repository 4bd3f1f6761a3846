"""The generator of docs/reference, whose pages come from the server's settings and the contract's comments."""
