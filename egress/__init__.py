"""What we cut off: plan which addresses to block, guard what must stay reachable, apply it to a firewall."""
