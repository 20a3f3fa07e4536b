"""What a report page shows beside its document: files as they are now, texts of both models."""
