"""What we suspect: detectors as pure functions and state machines, told what happened and what time it is."""
