"""How far a label store is, whether it is what was written, and how it is mended.

status     shards done, in work and missing; coverage, bytes, rate
verify     every byte read; every finding by file and sample
repair     damaged files set aside, their labels made again
"""
