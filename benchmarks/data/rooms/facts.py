"""Which world this is: what a listing says of it, without numpy."""

VERSION = "rooms-1"  # part of every fingerprint: raise it whenever a pixel of any scene may change
FINGERPRINT = "921160223037e4f6"  # of the rendered pixels, see fingerprint.py; a test compares
# zoo trains the embedded models, reference serves only Frechet distances, the others the probes.
SPLITS = ("train", "validation", "test", "reference", "zoo")
