"""Labelling on a GPU: pixels go up, finished bytes come down, and what lies between never waits for the host.

jpeg            plain JPEGs decoded with little Python, into memory that is given
resampling      Pillow's bicubic resize as tables of whole numbers
plain           resize and quantise in plain torch, on any device
kernels         the same in Triton, a kernel each
predictor       a batch from page-locked pixels to page-locked bytes

Whatever runs here gives, byte for byte, what the host's own code gives for the same pixels and maps.
"""
