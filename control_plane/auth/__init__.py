"""Who calls: `Authenticator` knows by a token, from the key store or from an OAuth 2 server."""
