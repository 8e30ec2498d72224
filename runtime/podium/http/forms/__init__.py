"""What bodies mean: bytes → named tensors and wishes, outputs → bytes. Pure; also run in the codec process."""
