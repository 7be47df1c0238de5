"""The whole way: from a dataset and a device to a checked file."""
