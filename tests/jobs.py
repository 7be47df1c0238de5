from support.jobs import *  # noqa: F403
