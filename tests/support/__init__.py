"""What tests share: programs in processes of their own, small spaces, rendered datasets. Tests import from here and
from `tunas`, and not from each other."""
