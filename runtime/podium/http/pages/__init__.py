"""What is not inference: health, metadata, documents, and the admin port."""
