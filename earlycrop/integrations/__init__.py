"""Callbacks for other libraries' trainers. Each module imports its library, so import only the one that you use."""
