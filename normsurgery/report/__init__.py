"""What a person reads: tables of documents, the model card, the progress protocol."""
