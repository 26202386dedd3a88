"""Engine 1: runs Workspaces as plain processes on this machine. `$KAITO_HOME` holds everything; there is no daemon."""
