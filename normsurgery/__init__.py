"""normsurgery: post-training model surgery with proofs."""
