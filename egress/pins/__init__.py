"""Clients that reach only what they were answered: who asked for what, kept open in the firewall."""
