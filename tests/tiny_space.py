from support.tiny_space import *  # noqa: F403
