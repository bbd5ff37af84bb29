"""Safe readers of network files: they execute nothing and import nothing that a file names."""

from .bare_state import write_state as write_state
from .lightning import read_lightning as read_lightning
from .network_file import ModuleFacts as ModuleFacts
from .network_file import NetworkFile as NetworkFile
from .reader import read_network as read_network
from .reader import read_pickle as read_pickle
from .taming import read_taming as read_taming
from .yaml_config import read_config as read_config
