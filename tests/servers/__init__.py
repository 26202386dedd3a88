"""Real servers for tests: an OCI registry, a token server, a web server, and a proxy that injects faults."""
