"""How good the detectors are, measured on real data: `make eval`."""
