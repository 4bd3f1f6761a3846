"""The contract over the chat engine, without a transport: requests are parsed, served, and their results rendered."""
