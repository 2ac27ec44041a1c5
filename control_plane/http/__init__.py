"""HTTP/1 under limits: the server, its protocol, its messages."""
