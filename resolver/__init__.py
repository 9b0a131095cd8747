"""What we answer: listeners, the packet loop, the answer cache, policy, sinkhole replies, upstream engines."""
