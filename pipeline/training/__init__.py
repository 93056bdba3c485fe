"""What the two trained stages share: the loop, sampling, augmentation, backbones and tracking."""
