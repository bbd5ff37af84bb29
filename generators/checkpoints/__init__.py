"""Safe readers of network files: they execute nothing and import nothing that a file names."""

from .bare_state import write_state as write_state
from .network_file import ModuleFacts as ModuleFacts
from .network_file import NetworkFile as NetworkFile
from .reader import read_network as read_network
from .reader import read_pickle as read_pickle
