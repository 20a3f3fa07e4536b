"""BatchNorms folded into convolutions and linears: the folds, their arithmetic, their forms."""
