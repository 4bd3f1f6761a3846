"""The service on top of the chat engine, without a transport: it parses requests and renders responses."""
