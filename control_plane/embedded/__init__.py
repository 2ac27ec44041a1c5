"""The embedded Triton server: installed, started, watched, restarted."""
