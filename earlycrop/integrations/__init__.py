"""Callbacks for training loops of others, each in a module that imports its library: import the one that you use."""
