"""What a run learns from: samples, labels, batches, caches, augmentation."""
