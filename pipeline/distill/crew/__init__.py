"""Processes that do the host's part for a fast device: one lock lets Python's threads run one at a time.

memory          memory that all of them see
captain         starts them, gives out work, hears of what is done; all in one thread
messages        what they say to each other
hand            what runs in them: decode, compress, write a shard
feed            photographs into that memory, ahead of the device
shards          results to shards, as `pipeline.distill.output` does it with threads

A photograph's pixels and a map's bytes are never sent: they stay where a hand or the device put them, and
messages say where. A few photographs make a message, so that one costs the captain a twentieth of a millisecond.
"""
