"""Native targets: a LayerNorm model written as a model of a stock RMSNorm class."""
