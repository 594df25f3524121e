"""What the long checks share: a server of their own, and people who are signed in."""
