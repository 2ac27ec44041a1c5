"""Several processes behind one port: `supervisor` keeps them running, `worker` is one of them."""
