"""How a description becomes torch modules: the weight-shared supernet and stand-alone networks."""

from tunas.nn.choice import for_each_choice
from tunas.nn.layers import TowerModule
from tunas.nn.network import Network, build_network
from tunas.nn.options import NetworkOptions
from tunas.nn.supernet import SuperNet

__all__ = ["Network", "NetworkOptions", "SuperNet", "TowerModule", "build_network", "for_each_choice"]
