"""Which BatchNorms of a model are constants that fold into the linear maps beside them."""
