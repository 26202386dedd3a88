"""What a user may write, and nothing else: Workspace, training configuration, their rules and their CRD. No network."""
