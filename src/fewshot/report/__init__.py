"""Views of run folders: reads what runs and sweeps left in their folders; nothing else of the project's state."""
