"""Pure ASGI middleware: nothing here costs anything per streamed chunk but a function call."""
