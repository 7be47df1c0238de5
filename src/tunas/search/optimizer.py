"""RMSProp's constants in TensorFlow's form, epsilon inside the square root (SPEC §3.3)."""

RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1.0
