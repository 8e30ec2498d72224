"""One model's workers behind one queue: batches formed, handed over, answered, streamed."""
