"""Networks, each a plain `nn.Module`."""
