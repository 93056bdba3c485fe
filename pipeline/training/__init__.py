"""What the two trained stages share: the loop, sampling, augmentation and tracking."""
