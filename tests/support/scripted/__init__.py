"""An engine that follows a script: for tests, fault injection, and measuring what is around it."""
