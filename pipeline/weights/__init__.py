"""A set of networks on the disk: the manifest, what each network has seen, tensors, backbones."""
