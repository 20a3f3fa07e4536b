"""What this machine and this installation are made of, and what is wrong with them."""
