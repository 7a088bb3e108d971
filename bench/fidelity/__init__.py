"""How near a set of pictures is to a set of real ones: FID, FID-patch, IS, KID, precision, recall, CMMD."""
